"""Whose a span may be: attempts that exist, and those that live traces belong to."""

from __future__ import annotations

from collections.abc import Collection

from .base import SqlBase

AttemptIds = tuple[str, str]


class Traces(SqlBase):
    """What is asked on behalf of spans that come from elsewhere."""

    async def attempts_among(self, refs: Collection[AttemptIds]) -> set[AttemptIds]:
        """Those of these attempts that the store knows."""
        if not refs:
            return set()
        condition, ids = self._database.dialect.any_of(sorted({rollout_id for rollout_id, _ in refs}), 1)
        found = await self._fetch(f"SELECT rollout_id, attempt_id FROM attempts WHERE rollout_id {condition}", *ids)
        return {(row[0], row[1]) for row in found} & set(refs)

    async def attempts_of_traces(self, trace_ids: Collection[str]) -> dict[str, AttemptIds]:
        """The attempts that these traces are known to belong to, among those that live."""
        if not trace_ids:
            return {}
        condition, ids = self._database.dialect.any_of(sorted(trace_ids), 1)
        # Through the live attempts, which are few: an index on trace ids would cost every span that is stored.
        found = await self._fetch(
            "SELECT DISTINCT spans.trace_id, spans.rollout_id, spans.attempt_id FROM attempts JOIN spans ON "
            "spans.rollout_id = attempts.rollout_id AND spans.attempt_id = attempts.attempt_id "
            f"WHERE attempts.deadline IS NOT NULL AND spans.trace_id {condition}",
            *ids,
        )
        return {row[0]: (row[1], row[2]) for row in found}
