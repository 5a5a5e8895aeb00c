"""Operations on attempts and on the workers that execute them: reports, heartbeats and expired deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import payload
from ...errors import Conflict, FinalStatus, NotFound
from ...types import Attempt, AttemptedRollout, AttemptRef, AttemptStatus, PaginatedResult, Worker, WorkerStatus
from .. import lifecycle
from ..contract import UNSET, Unset
from ..db.database import ConflictKey, Transaction
from . import rows
from .base import SqlBase, check_worker_id
from .query import Query, sorts
from .transitions import TransitionWriter

EXPIRED_PER_TRANSACTION = 500
"""Maximum number of overdue attempts that are processed in one transaction."""
WORKER_SILENCE_SECONDS = lifecycle.DEFAULT_UNRESPONSIVE_SECONDS
"""Time in seconds after a worker's last heartbeat until the worker's status is set to `unknown`."""

_ATTEMPT_SORT = sorts(
    "a.",
    texts=("attempt_id", "rollout_id", "status", "worker_id"),
    floats=("end_time", "last_heartbeat_time", "start_time"),
    integers=("sequence_id",),
)


_WORKER_SORT = sorts(
    texts=("worker_id", "status", "current_rollout_id", "current_attempt_id"),
    floats=("last_heartbeat_time", "last_dequeue_time", "last_busy_time", "last_idle_time"),
)


class Attempts(SqlBase):
    """Operations on attempts and workers."""

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        check_worker_id(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            transitions = self._transitions(transaction)
            rollout = rows.any_rollout(await transitions.rollout_row(rollout_id))
            if rollout.status in lifecycle.FINAL:
                raise FinalStatus(f"rollout {rollout_id} has already ended ({rollout.status}); enqueue a new one")
            await transitions.end_live_attempt(rollout_id, "failed", "superseded by start_attempt")
            found = await transaction.fetch("SELECT attempts FROM rollouts WHERE rollout_id = ?1", rollout_id)
            row = await transitions.rollout_row(rollout_id)
            return (await transitions.begin([(row, found[0][0])], worker_id))[0]

        return await self._write(body)

    async def query_attempts(
        self, rollout_id: str, *, sort_by: str | None = "sequence_id", **page: Any
    ) -> PaginatedResult[Attempt]:
        options = {"sort_by": sort_by, **page}
        query = Query(
            self._database, rows.ATTEMPT, "attempts a", _ATTEMPT_SORT, options, size=rows.ATTEMPT_SIZE, key="a.ordinal"
        )
        query.always("a.rollout_id = {}", rollout_id)
        return await query.page(rows.attempt, short=True)

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
            transition = lifecycle.report(row.state, row.state.attempt if isinstance(status, Unset) else status)
            if not isinstance(text, Unset):
                await transitions.update_attempt(row, metadata=text)
            if not isinstance(last_heartbeat_time, Unset):
                await transitions.record_heartbeat(row)
            if transition.attempt != row.state.attempt:
                await transitions.apply(row, transition)
            if not isinstance(worker_id, Unset):
                # Set the attempt's new worker last, because `apply` must first update the previous worker.
                await transitions.update_attempt(row, worker_id=worker_id)
            return row.attempt()

        try:
            return await self._write(body, ConflictKey("attempts", rollout_id))
        except Conflict:
            self.counters["stale_reports"] += 1
            raise

    async def update_worker(
        self,
        worker_id: str,
        heartbeat_stats: dict[str, Any] | None = None,
        attempts: Sequence[AttemptRef] | None = None,
    ) -> Worker:
        check_worker_id(worker_id)
        stats = rows.json_or_null(heartbeat_stats, "heartbeat_stats")

        async def body(transaction: Transaction) -> Worker:
            held = await _live_attempts_of(transaction, worker_id) if attempts is None else attempts
            transitions = self._transitions(transaction)
            stale = [ref for ref in held if not await _record_heartbeat(transitions, ref)]
            worker = await self._upsert(transaction, worker_id, stats)
            transaction.notify(("workers", ""))
            return worker.model_copy(update={"stale_attempts": stale})

        return await self._write(body)

    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        **page: Any,
    ) -> PaginatedResult[Worker]:
        query = Query(
            self._database, rows.WORKER, "workers", _WORKER_SORT, page, size="coalesce(length(heartbeat_stats), 0)"
        )
        query.among("status", status_in)
        query.contains("worker_id", worker_id_contains)
        return await query.page(rows.worker)

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        sql = f"SELECT {rows.WORKER} FROM workers WHERE worker_id = ?1"
        found = await self._database.fetch(sql, worker_id, short=True)
        return rows.worker(found[0]) if found else None

    async def expire_overdue(self) -> int:
        """Set the statuses of workers and attempts whose deadlines have passed.

        A worker without recent heartbeats becomes `unknown`. An overdue attempt becomes `timeout` or `unresponsive`.
        One call processes at most `EXPIRED_PER_TRANSACTION` attempts. Return the number of overdue attempts found. The
        store calls this method periodically.
        """
        if not (await self._database.fetch(_ANY_OVERDUE, self._clock.lease(), short=True))[0][0]:
            return 0
        return await self._database.write(self._expire)

    async def _upsert(self, transaction: Transaction, worker_id: str, stats: bytes | None) -> Worker:
        holds = await _live_attempts_of(transaction, worker_id)
        found = await transaction.fetch(
            "INSERT INTO workers (worker_id, status, heartbeat_stats, last_heartbeat_time, deadline) "
            "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (worker_id) DO UPDATE SET status = excluded.status, "
            "heartbeat_stats = coalesce(excluded.heartbeat_stats, workers.heartbeat_stats), "
            "last_heartbeat_time = excluded.last_heartbeat_time, deadline = excluded.deadline "
            f"RETURNING {rows.WORKER}",
            worker_id,
            "busy" if holds else "idle",
            stats,
            self._clock.now(),
            self._clock.lease() + WORKER_SILENCE_SECONDS,
        )
        return rows.worker(found[0])

    async def _expire(self, transaction: Transaction) -> int:
        transitions = self._transitions(transaction)
        await transaction.execute(
            "UPDATE workers SET status = 'unknown', deadline = NULL WHERE deadline < ?1", transitions.lease
        )
        overdue = await transaction.fetch(
            "SELECT rollout_id, attempt_id FROM attempts WHERE deadline < ?1 ORDER BY deadline LIMIT ?2",
            transitions.lease,
            EXPIRED_PER_TRANSACTION,
        )
        for rollout_id, attempt_id in overdue:
            row = await transitions.attempt_row(rollout_id, attempt_id)
            due = lifecycle.deadlines(row.config, row.columns["lease_start"], row.columns["lease_seen"])
            status = lifecycle.expired(due, transitions.lease)
            if status is None or row.state.attempt not in lifecycle.LIVE:
                continue
            transition = lifecycle.report(row.state, status)
            transaction.count("timeouts" if status == "timeout" else "lost_runners")
            transaction.count("incomplete_traces")
            await transitions.apply(row, transition, reason=lifecycle.timeout_reason(status, row.config))
        return len(overdue)


_ANY_OVERDUE = (
    "SELECT EXISTS (SELECT 1 FROM workers WHERE deadline < ?1) OR EXISTS (SELECT 1 FROM attempts WHERE deadline < ?1)"
)


async def _live_attempts_of(transaction: Transaction, worker_id: str) -> list[AttemptRef]:
    found = await transaction.fetch(
        "SELECT rollout_id, attempt_id FROM attempts WHERE worker_id = ?1 AND deadline IS NOT NULL", worker_id
    )
    return [AttemptRef(rollout_id=row[0], attempt_id=row[1]) for row in found]


async def _record_heartbeat(transitions: TransitionWriter, ref: AttemptRef) -> bool:
    try:
        return await transitions.record_heartbeat(await transitions.attempt_row(ref.rollout_id, ref.attempt_id))
    except NotFound:
        return False
