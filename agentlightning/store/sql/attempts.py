"""Attempts: started explicitly, reported on, and ended when their deadline has passed."""

from __future__ import annotations

from typing import Any

from ... import payload
from ...errors import Conflict, FinalStatus
from ...types import Attempt, AttemptedRollout, AttemptStatus, PaginatedResult
from .. import lifecycle
from ..contract import UNSET, Unset
from ..db.database import ConflictKey, Transaction
from . import rows
from .base import SqlBase, check_worker_id
from .query import Query, sorts

EXPIRED_PER_TRANSACTION = 500

_ATTEMPT_SORT = sorts(
    "a.",
    texts=("attempt_id", "rollout_id", "status", "worker_id"),
    floats=("end_time", "last_heartbeat_time", "start_time"),
    integers=("sequence_id",),
)


class Attempts(SqlBase):
    """Operations on the attempts of rollouts."""

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        check_worker_id(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            transitions = self._transitions(transaction)
            rollout = rows.any_rollout(await transitions.rollout_row(rollout_id))
            if rollout.status in lifecycle.FINAL:
                raise FinalStatus(f"rollout {rollout_id} has already ended ({rollout.status}); enqueue a new one")
            await transitions.end_live_attempt(rollout_id, "failed", "superseded by an attempt started by hand")
            found = await transaction.fetch("SELECT attempts FROM rollouts WHERE rollout_id = ?1", rollout_id)
            row = await transitions.rollout_row(rollout_id)
            return (await transitions.begin([(row, found[0][0])], worker_id))[0]

        return await self._write(body)

    async def query_attempts(
        self, rollout_id: str, *, sort_by: str | None = "sequence_id", **page: Any
    ) -> PaginatedResult[Attempt]:
        query = Query(self._database.dialect, rows.ATTEMPT, "attempts a", order="a.ordinal")
        query.always("a.rollout_id = {}", rollout_id)
        return await self._page(query, rows.attempt, _ATTEMPT_SORT, sort_by=sort_by, short=True, **page)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        rollout = await self.get_rollout_by_id(rollout_id)
        return rollout.attempt if isinstance(rollout, AttemptedRollout) else None

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        text = metadata if isinstance(metadata, Unset) else payload.dumps_unchecked(metadata, field="metadata")
        if not isinstance(worker_id, Unset):
            check_worker_id(worker_id)

        async def body(transaction: Transaction) -> Attempt:
            transitions = self._transitions(transaction)
            row = await transitions.attempt_row(rollout_id, attempt_id)
            transition = lifecycle.report(row.state, row.status if isinstance(status, Unset) else status)
            if not isinstance(text, Unset):
                row.metadata = text
                await transaction.execute("UPDATE attempts SET metadata = ?2 WHERE ordinal = ?1", row.ordinal, text)
            if not isinstance(worker_id, Unset):
                await transaction.execute(
                    "UPDATE attempts SET worker_id = ?2 WHERE ordinal = ?1", row.ordinal, worker_id
                )
            if not isinstance(last_heartbeat_time, Unset):
                await transitions.record_heartbeat(row)
            if transition.attempt != row.state.attempt:
                await transitions.apply(row, transition)
            row.worker = row.worker if isinstance(worker_id, Unset) else worker_id
            return row.attempt()

        try:
            return await self._write(body, ConflictKey("attempts", rollout_id))
        except Conflict:
            self.counters["stale_reports"] += 1
            raise

    async def expire_overdue_attempts(self) -> int:
        """End attempts whose deadline has passed and return their number."""
        if not await self._fetch("SELECT 1 FROM attempts WHERE deadline < ?1 LIMIT 1", self._clock.lease()):
            return 0
        return await self._database.write(self._expire)

    async def _expire(self, transaction: Transaction) -> int:
        transitions = self._transitions(transaction)
        overdue = await transaction.fetch(
            "SELECT rollout_id, attempt_id FROM attempts WHERE deadline < ?1 ORDER BY deadline LIMIT ?2",
            transitions.lease,
            EXPIRED_PER_TRANSACTION,
        )
        for rollout_id, attempt_id in overdue:
            row = await transitions.attempt_row(rollout_id, attempt_id)
            due = lifecycle.deadlines(row.config, row.lease_start, row.lease_seen)
            status = lifecycle.expired(due, transitions.lease)
            if status is None or row.state.attempt not in lifecycle.LIVE:
                continue
            transition = lifecycle.report(row.state, status)
            transaction.count("timeouts" if status == "timeout" else "lost_runners")
            transaction.count("incomplete_traces")
            await transitions.apply(row, transition, reason=lifecycle.timeout_reason(status, row.config))
        return len(overdue)
