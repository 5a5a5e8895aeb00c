"""Operations on existing rollouts: query them, update them, and wait until they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ... import payload
from ...errors import FinalStatus, NotFound
from ...types import AttemptedRollout, PaginatedResult, RolloutConfig, RolloutMode, RolloutStatus
from .. import lifecycle
from ..contract import UNSET, AnyRollout, Unset
from ..db.database import Row, Transaction
from ..db.signals import Topic
from . import rows
from .base import SMALL_READ_ROWS, SqlBase
from .query import Query, Sort, count_fitting, sorts
from .resources import resolve_version
from .transitions import LATEST, TransitionWriter

T = TypeVar("T")

_ROLLOUT_SORT = {
    **sorts(
        "r.",
        texts=("rollout_id", "mode", "resources_id", "status"),
        floats=("start_time", "end_time", "reward"),
        integers=("resources_version",),
    ),
    "failed_first": Sort("CASE r.status WHEN 'failed' THEN 0 ELSE 1 END", int),
}
_ENDED = f"r.status IN ({', '.join(repr(status) for status in sorted(lifecycle.FINAL))})"


class Rollouts(SqlBase):
    """Operations on existing rollouts. `queue.py` contains the operations that create rollouts."""

    async def query_rollouts(
        self, rollout_id_in: Sequence[str] | None = None, **query: Any
    ) -> PaginatedResult[AnyRollout]:
        return await self._query_rollouts(rows.any_rollout, rollout_id_in, **query)

    async def query_encoded_rollouts(
        self, rollout_id_in: Sequence[str] | None = None, **query: Any
    ) -> PaginatedResult[bytes]:
        """Like `query_rollouts`, but return each rollout as JSON text."""
        return await self._query_rollouts(rows.encoded_rollout, rollout_id_in, **query)

    async def _query_rollouts(
        self,
        convert: Callable[[Row], T],
        rollout_id_in: Sequence[str] | None = None,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_contains: str | None = None,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        resources_id: str | None = None,
        resources_version: int | None = None,
        text_contains: str | None = None,
        cut_at: int | None = None,
        **page: Any,
    ) -> PaginatedResult[T]:
        query = Query(
            self._database,
            rows.ROLLOUT_AND_ATTEMPT,
            rows.ROLLOUTS,
            _ROLLOUT_SORT,
            page,
            size=f"{rows.ROLLOUT_SIZE} + {rows.ATTEMPT_SIZE}",
            key="r.ordinal",
            table="rollouts r",
        )
        query.among("r.rollout_id", rollout_ids if rollout_id_in is None else rollout_id_in)
        query.among("r.status", status if status_in is None else status_in)
        query.among("r.mode", mode_in)
        query.equals("r.resources_id", resources_id)
        query.equals("r.resources_version", resources_version)
        query.contains("r.rollout_id", rollout_id_contains)
        query.any_contains(["r.rollout_id"], ["r.input"], text_contains)
        read_page = partial(query.page, lambda row: convert(rows.cut_input(row, cut_at)))
        if cut_at is None or rollout_id_in is not None:
            return await read_page()
        # Dashboards poll for lists with truncated inputs. Many dashboards may be open at the same time, so concurrent
        # identical queries share one result.
        return await self._single_flight.get((query.cache_key(), cut_at, convert), read_page)

    async def get_rollout_by_id(self, rollout_id: str) -> AnyRollout | None:
        found = await self._rollouts([rollout_id])
        return found[0] if found else None

    async def update_rollout(
        self,
        rollout_id: str,
        input: Any = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> AnyRollout:
        fields: dict[str, Any] = {
            "input": input if isinstance(input, Unset) else payload.dumps_unchecked(input, field="input"),
            "mode": mode,
            "config": config if isinstance(config, Unset) else rows.config_json(config),
            "metadata": metadata
            if isinstance(metadata, Unset)
            else payload.dumps_unchecked(metadata or {}, field="metadata"),
        }

        async def body(transaction: Transaction) -> AnyRollout:
            transitions = self._transitions(transaction)
            before = rows.any_rollout(await transitions.rollout_row(rollout_id))
            changed = {name: value for name, value in fields.items() if not isinstance(value, Unset)}
            if not isinstance(resources_id, Unset):
                changed["resources_id"], changed["resources_version"] = await resolve_version(transaction, resources_id)
            if before.status in lifecycle.FINAL and changed.keys() - {"metadata"}:
                raise FinalStatus(f"rollout {rollout_id} has already ended ({before.status}) and cannot be changed")
            if changed:
                await transitions.update_rollout(rollout_id, **changed)
            if "config" in changed and isinstance(before, AttemptedRollout):
                await self._renew_deadline(transaction, rollout_id, before.attempt.attempt_id)
            if not isinstance(status, Unset):
                await self._set_status(transitions, before, status)
            transaction.notify(("rollout", rollout_id))
            return rows.any_rollout(await transitions.rollout_row(rollout_id))

        return await self._write(body)

    async def wait_for_rollouts(
        self, rollout_ids: Sequence[str], timeout: float | None = None, *, max_bytes: int | None = None
    ) -> list[AnyRollout]:
        """Wait as the contract's operation does.

        If `max_bytes` is set, return only the first ended rollouts that fit in it, but at least one if any has ended.
        """
        ids = list(dict.fromkeys(rollout_ids))
        deadline = None if timeout is None else time.monotonic() + timeout
        topics: list[Topic] = [("ended", rollout_id) for rollout_id in ids]
        with self._database.signals.listen(*topics) as waiter:
            unfinished = await self._unfinished(ids)
            while unfinished and not waiter.released:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                # `wait` returns the topics of rollouts that have ended. Their statuses are final, so it is not
                # necessary to check these rollouts again.
                unfinished -= {rollout_id for _, rollout_id in await waiter.wait(left)}
        if max_bytes is not None:
            ids = await self._first_ended(ids, max_bytes)
        by_id = {rollout.rollout_id: rollout for rollout in await self._rollouts(ids, ended_only=True)}
        return [by_id[rollout_id] for rollout_id in ids if rollout_id in by_id]

    async def _set_status(self, transitions: TransitionWriter, before: AnyRollout, status: RolloutStatus) -> None:
        attempt = before.attempt.status if isinstance(before, AttemptedRollout) else None
        transition = lifecycle.set_rollout_status(before.rollout_id, before.status, attempt, status)
        if transition.attempt != attempt and transition.attempt in lifecycle.ENDED:
            await transitions.end_live_attempt(
                before.rollout_id, transition.attempt, f"the rollout was set to {status}"
            )
        if transition.rollout == before.status:
            return
        if transition.rollout in lifecycle.FINAL:
            await transitions.end_rollout(before.rollout_id, transition.rollout)
        elif transition.rollout in lifecycle.QUEUED:
            await transitions.enqueue(before.rollout_id, transition.rollout)
        else:
            await transitions.record_heartbeat(await transitions.attempt_row(before.rollout_id, LATEST))

    async def _renew_deadline(self, transaction: Transaction, rollout_id: str, attempt_id: str) -> None:
        row = await self._transitions(transaction).attempt_row(rollout_id, attempt_id)
        due = lifecycle.deadlines(row.config, row.columns["lease_start"], row.columns["lease_seen"]).next
        sql = "UPDATE attempts SET deadline = ?2 WHERE ordinal = ?1 AND deadline IS NOT NULL"
        await transaction.execute(sql, row.columns["ordinal"], due)

    async def _rollouts(self, ids: Sequence[str], *, ended_only: bool = False) -> list[AnyRollout]:
        where = f"{_ENDED} AND" if ended_only else ""
        found = await self._rows(f"SELECT {rows.ROLLOUT_AND_ATTEMPT} FROM {rows.ROLLOUTS} WHERE {where}", ids)
        return [rows.any_rollout(row) for row in found]

    async def _first_ended(self, ids: Sequence[str], max_bytes: int) -> Sequence[str]:
        """Return the ids of the first ended rollouts that fit in `max_bytes`, but at least one if any has ended."""
        size = f"{rows.ROLLOUT_SIZE} + {rows.ATTEMPT_SIZE}"
        found = await self._rows(f"SELECT r.rollout_id, {size} FROM {rows.ROLLOUTS} WHERE {_ENDED} AND", ids)
        sizes: dict[str, int] = {row[0]: row[1] for row in found}
        ended = [rollout_id for rollout_id in ids if rollout_id in sizes]
        return ended[: count_fitting([sizes[rollout_id] for rollout_id in ended], max_bytes)]

    async def _unfinished(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of those rollouts that have not ended. Raises `NotFound` if any of `ids` is unknown."""
        found = await self._rows("SELECT rollout_id, status FROM rollouts r WHERE", ids)
        known = {row[0] for row in found}
        for rollout_id in ids:
            if rollout_id not in known:
                raise NotFound(f"no rollout {rollout_id} in this store", field="rollout_ids")
        return {row[0] for row in found if row[1] not in lifecycle.FINAL}

    async def _rows(self, select: str, ids: Sequence[str]) -> Sequence[Row]:
        if not ids:
            return []
        condition, values = self._database.dialect.any_of(ids, 1)
        short = len(ids) <= SMALL_READ_ROWS
        return await self._database.fetch(f"{select} r.rollout_id {condition}", *values, short=short)
