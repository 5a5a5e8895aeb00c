"""Workers: heartbeats, and detection of silent workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import NotFound
from ...types import AttemptRef, PaginatedResult, Worker, WorkerStatus
from .. import lifecycle
from ..db.database import Transaction
from . import rows
from .base import SqlBase, check_worker_id
from .query import Query, sorts
from .transitions import TransitionWriter

WORKER_SILENCE_SECONDS = lifecycle.DEFAULT_UNRESPONSIVE_SECONDS

_WORKER_SORT = sorts(
    texts=("worker_id", "status", "current_rollout_id", "current_attempt_id"),
    floats=("last_heartbeat_time", "last_dequeue_time", "last_busy_time", "last_idle_time"),
)


class Workers(SqlBase):
    """Operations on workers, which execute rollouts."""

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
        query = Query(self._database.dialect, rows.WORKER, "workers", order="ordinal")
        query.among("status", status_in)
        query.contains("worker_id", worker_id_contains)
        return await self._page(query, rows.worker, _WORKER_SORT, **page)

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        found = await self._fetch(f"SELECT {rows.WORKER} FROM workers WHERE worker_id = ?1", worker_id, short=True)
        return rows.worker(found[0]) if found else None

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

    async def mark_silent_workers_unknown(self) -> None:
        """Set workers without recent heartbeats to `unknown`."""
        lease = self._clock.lease()
        if await self._fetch("SELECT 1 FROM workers WHERE deadline < ?1 LIMIT 1", lease):
            await self._database.write(
                lambda transaction: transaction.execute(
                    "UPDATE workers SET status = 'unknown', deadline = NULL WHERE deadline < ?1", lease
                )
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
