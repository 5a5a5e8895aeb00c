"""Queries of the OTLP receiver and exporter: owners of received spans, and the export progress of each target."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..db.database import Row, Transaction
from .base import SqlBase

AttemptIds = tuple[str, str]


class SpanWatermark(NamedTuple):
    """The newest span at a moment, and the transaction number up to which no earlier span can still appear."""

    ordinal: int
    transaction: int


class OtlpQueries(SqlBase):
    """Operations for the OTLP receiver and exporter."""

    async def existing_attempts(self, refs: Collection[AttemptIds]) -> set[AttemptIds]:
        """Return those of the given attempts that exist."""
        if not refs:
            return set()
        condition, ids = self._database.dialect.any_of(sorted({rollout_id for rollout_id, _ in refs}), 1)
        found = await self._fetch(f"SELECT rollout_id, attempt_id FROM attempts WHERE rollout_id {condition}", *ids)
        return {(row[0], row[1]) for row in found} & set(refs)

    async def live_attempts_by_trace(self, trace_ids: Collection[str]) -> dict[str, AttemptIds]:
        """Return the live attempts that have spans of the given traces."""
        if not trace_ids:
            return {}
        condition, ids = self._database.dialect.any_of(sorted(trace_ids), 1)
        # Starts from the live attempts, which are few: an index on trace ids would slow down every stored span.
        found = await self._fetch(
            "SELECT DISTINCT spans.trace_id, spans.rollout_id, spans.attempt_id FROM attempts JOIN spans ON "
            "spans.rollout_id = attempts.rollout_id AND spans.attempt_id = attempts.attempt_id "
            f"WHERE attempts.deadline IS NOT NULL AND spans.trace_id {condition}",
            *ids,
        )
        return {row[0]: (row[1], row[2]) for row in found}

    async def register_export_target(self, target: str, *, past: bool) -> None:
        """Add a new target: with `past` it gets all stored spans, otherwise only later ones."""
        first = "0" if past else "(SELECT coalesce(max(ordinal), 0) FROM spans)"
        sql = f"INSERT INTO exports (target, ordinal) VALUES (?1, {first}) ON CONFLICT (target) DO NOTHING"
        await self._database.write(lambda transaction: transaction.execute(sql, target))

    async def last_exported_ordinal(self, target: str) -> int:
        """Return the ordinal of the last span that a target has received."""
        return (await self._fetch("SELECT ordinal FROM exports WHERE target = ?1", target, short=True))[0][0]

    async def record_exported(self, target: str, ordinal: int, payload: bytes) -> int:
        """Record that a target has received all spans up to this one, and return the recorded ordinal.

        It stays unchanged when the span has been deleted meanwhile, because another span may get its ordinal.
        """

        async def body(transaction: Transaction) -> int:
            if await transaction.fetch("SELECT 1 FROM spans WHERE ordinal = ?1 AND payload = ?2", ordinal, payload):
                await transaction.execute("UPDATE exports SET ordinal = ?2 WHERE target = ?1", target, ordinal)
            return (await transaction.fetch("SELECT ordinal FROM exports WHERE target = ?1", target))[0][0]

        return await self._database.write(body)

    async def span_watermark(self) -> SpanWatermark:
        """Return the newest span."""
        number = self._database.dialect.transaction_number
        [row] = await self._fetch(f"SELECT coalesce(max(ordinal), 0), {number} FROM spans", short=True)
        return SpanWatermark(row[0], row[1])

    async def is_settled(self, watermark: SpanWatermark) -> bool:
        """Return True if every span up to the watermark is visible: transactions may commit out of order."""
        [row] = await self._fetch(f"SELECT {self._database.dialect.oldest_transaction}", short=True)
        return row[0] >= watermark.transaction

    async def spans_between(self, after: int, up_to: int, most: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """Return the oldest spans between two ordinals as JSON text, within both limits but at least one."""

        async def body(transaction: Transaction) -> Sequence[Row]:
            sizes = await transaction.fetch(
                "SELECT ordinal, length(payload) FROM spans WHERE ordinal > ?1 AND ordinal <= ?2 "
                "ORDER BY ordinal LIMIT ?3",
                after,
                up_to,
                most,
            )
            return await transaction.fetch(
                "SELECT ordinal, payload FROM spans WHERE ordinal > ?1 AND ordinal <= ?2 ORDER BY ordinal",
                after,
                _last_within(sizes, most_bytes),
            )

        return [(row[0], row[1]) for row in await self._database.read(body)]


def _last_within(sizes: Sequence[Row], most_bytes: int) -> int:
    last, total = 0, 0
    for ordinal, size in sizes:
        if last and total + size > most_bytes:
            break
        last, total = ordinal, total + size
    return last
