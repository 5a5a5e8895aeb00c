"""Lifecycle transitions in SQL: the resulting changes to the rows of attempts, rollouts and workers.

Each method runs inside a transaction. In a database with several writers, a transaction locks a rollout's row before
it changes the rollout or its attempts, so that two transitions of the same rollout cannot overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from ...errors import NotFound
from ...types import Attempt, AttemptedRollout, AttemptStatus, RolloutStatus
from .. import lifecycle
from ..db.database import Dialect, Row, Transaction
from ..db.signals import QUEUE
from ..lifecycle import AttemptState, Transition
from . import rows
from .rows import AttemptRow

LATEST = "latest"
"""The value that callers pass instead of an attempt id to select the latest attempt of a rollout."""
TAIL = "(SELECT coalesce(max(queue_position), 0) + 1 FROM rollouts WHERE queue_position IS NOT NULL)"
"""SQL expression for the queue position after the last rollout in the queue."""


@dataclass(frozen=True)
class TransitionWriter:
    """Writes transitions in one transaction.

    All of them use the same time: `now` is the wall time, and `lease` is the lease time (see `Clock` in `base.py`).
    """

    transaction: Transaction
    dialect: Dialect
    now: float
    lease: float

    # Reading

    async def rollout_row(self, rollout_id: str) -> Row:
        """Lock a rollout, and return its row, joined with its latest attempt if it has one.

        Raises `NotFound` if the rollout does not exist.
        """
        if lock := self.dialect.for_update:
            await self.transaction.fetch(f"SELECT 1 FROM rollouts WHERE rollout_id = ?1{lock}", rollout_id)
        found = await self.transaction.fetch(
            f"SELECT {rows.ROLLOUT_AND_ATTEMPT} FROM {rows.ROLLOUTS} WHERE r.rollout_id = ?1", rollout_id
        )
        if not found:
            raise NotFound(f"no rollout {rollout_id} in this store", field="rollout_id")
        return found[0]

    async def attempt_row(self, rollout_id: str, attempt_id: str) -> AttemptRow:
        """Lock a rollout and one of its attempts, and return the row of the attempt.

        `attempt_id` may be `"latest"`. Raises `NotFound` if the rollout or the attempt does not exist.
        """
        lock = self.dialect.for_update
        if lock and attempt_id == LATEST:  # so that no other transaction can start a newer attempt
            await self.rollout_row(rollout_id)
        column = "r.attempt_id" if attempt_id == LATEST else "?2"
        found = await self.transaction.fetch(
            f"SELECT {rows.ATTEMPT_STATE} FROM {rows.ATTEMPT_STATE_SOURCE} "
            f"WHERE a.rollout_id = ?1 AND a.attempt_id = {column}{lock}",
            *([rollout_id] if attempt_id == LATEST else [rollout_id, attempt_id]),
        )
        if not found:
            await self.rollout_row(rollout_id)
            which = "attempts yet" if attempt_id == LATEST else f"attempt {attempt_id}"
            raise NotFound(f"rollout {rollout_id} has no {which}", field="attempt_id")
        return AttemptRow(found[0])

    # Starting attempts

    async def next_queued(self, limit: int) -> Sequence[Row]:
        """Lock and return up to `limit` rows from the head of the queue. The last column is the number of attempts."""
        return await self.transaction.claim_rows(
            f"SELECT {rows.ROLLOUT}, r.queue_position, r.attempts FROM rollouts r WHERE queue_position IS NOT NULL "
            f"ORDER BY queue_position, ordinal LIMIT ?1{self.dialect.skip_locked}",
            limit,
        )

    async def begin(self, queued: Sequence[tuple[Row, int]], worker_id: str | None) -> list[AttemptedRollout]:
        """Start a new attempt of each rollout, and remove the rollout from the queue if it is queued.

        `queued` contains the row of each rollout and the number of its earlier attempts.
        """
        begun = [await self._new_attempt(row, earlier_attempts, worker_id) for row, earlier_attempts in queued]
        await self._insert_attempts(begun)
        await self.transaction.execute_many(
            "UPDATE rollouts SET status = ?2, attempt_id = ?3, attempts = ?4, queue_position = NULL, reward = NULL "
            "WHERE rollout_id = ?1",
            [(each.rollout_id, each.status, each.attempt.attempt_id, each.attempt.sequence_id) for each in begun],
        )
        for each in begun:
            self.transaction.notify(("rollout", each.rollout_id))
        if worker_id is not None and begun:
            await self._set_worker_busy(worker_id, begun[-1].attempt)
        return begun

    async def enqueue(self, rollout_id: str, status: str) -> None:
        """Set the status of a rollout, move the rollout to the end of the queue, and wake one waiting claim."""
        await self.transaction.execute(
            f"UPDATE rollouts SET status = ?2, queue_position = {TAIL} WHERE rollout_id = ?1", rollout_id, status
        )
        self.transaction.notify(QUEUE, 1)
        self.transaction.notify(("rollout", rollout_id))

    # Heartbeats and rewards

    async def record_heartbeat(self, row: AttemptRow) -> bool:
        """Record a heartbeat or span from an attempt. Return False if it arrived too late to have an effect."""
        transition = lifecycle.heartbeat(row.state)
        if transition is None:
            return False
        await self.apply_heartbeat(row, transition)
        return True

    async def apply_heartbeat(self, row: AttemptRow, transition: Transition, **columns: Any) -> None:
        """Write the transition caused by a heartbeat or span. Also set the new deadline and other `columns`."""
        await self._set_rollout_status(row.state, transition.rollout)
        if row.state.attempt == "unresponsive" and row.columns["worker_id"] is not None:
            await self._restore_worker(row.columns["worker_id"], row.state)
        await self.update_attempt(
            row,
            status=transition.attempt,
            end_time=None,
            last_heartbeat_time=self.now,
            lease_seen=self.lease,
            deadline=lifecycle.deadlines(row.config, row.columns["lease_start"], self.lease).next,
            **columns,
        )

    async def record_reward(self, state: AttemptState, reward: float) -> None:
        """Set the reward of an attempt's rollout if the attempt is the rollout's latest attempt."""
        if state.latest:
            await self.update_rollout(state.rollout_id, reward=reward)
            self.transaction.notify(("rollout", state.rollout_id))

    # Ending

    async def apply(self, row: AttemptRow, transition: Transition, *, reason: str | None = None) -> None:
        """Write the transition caused by a report on an attempt. Add `reason`, if given, to the attempt's metadata."""
        status = transition.attempt
        assert status is not None
        if status == "running":
            await self.record_heartbeat(row)
            return
        metadata = row.columns["metadata"]
        if row.columns["worker_id"] is not None:
            await self._release_worker(row.columns["worker_id"], row.columns["ordinal"], status)
        await self.update_attempt(
            row,
            status=status,
            end_time=self.now,
            deadline=None,
            metadata=metadata if reason is None else _with_reason(metadata, reason),
        )
        await self._set_rollout_status(row.state, transition.rollout)

    async def end_live_attempt(self, rollout_id: str, status: AttemptStatus, reason: str) -> None:
        """End the live attempt of a rollout, if there is one. The status of the rollout does not change."""
        found = await self.transaction.fetch(
            f"SELECT {rows.ATTEMPT_STATE} FROM {rows.ATTEMPT_STATE_SOURCE} "
            "WHERE a.rollout_id = ?1 AND a.attempt_id = r.attempt_id AND a.deadline IS NOT NULL",
            rollout_id,
        )
        for row in map(AttemptRow, found):
            await self.apply(row, Transition(row.state.rollout, status), reason=reason)

    async def end_rollout(self, rollout_id: str, status: str) -> None:
        """Set the final status of a rollout, and wake the callers that are waiting for the rollout to end."""
        await self.update_rollout(rollout_id, status=status, end_time=self.now, queue_position=None)
        self.transaction.notify(("ended", rollout_id))

    # Rows

    async def update_attempt(self, row: AttemptRow, **columns: Any) -> None:
        """Set columns of an attempt, both in the database and in `row`."""
        row.columns.update(columns)
        sql = _update_sql("attempts SET {} WHERE ordinal = ?1", *columns)
        await self.transaction.execute(sql, row.columns["ordinal"], *columns.values())

    async def update_rollout(self, rollout_id: str, **columns: Any) -> None:
        """Set columns of a rollout in the database."""
        sql = _update_sql("rollouts SET {} WHERE rollout_id = ?1", *columns)
        await self.transaction.execute(sql, rollout_id, *columns.values())

    async def _set_rollout_status(self, state: AttemptState, status: RolloutStatus) -> None:
        if status == state.rollout:
            return
        if status in lifecycle.FINAL:
            await self.end_rollout(state.rollout_id, status)
        elif status in lifecycle.QUEUED:
            self.transaction.count("requeues")
            await self.enqueue(state.rollout_id, status)
        else:
            await self.update_rollout(state.rollout_id, status=status, queue_position=None)
            self.transaction.notify(("rollout", state.rollout_id))

    async def _new_attempt(self, row: Row, earlier_attempts: int, worker_id: str | None) -> AttemptedRollout:
        rollout = rows.rollout(row)
        transition = lifecycle.claim(rollout.status)
        attempt_id = await self._unused_attempt_id(rollout.rollout_id, earlier_attempts)
        started = (rollout.rollout_id, attempt_id, earlier_attempts + 1, self.now, None)
        attempt = rows.attempt((*started, transition.attempt, worker_id, None, None))
        fields: dict[str, Any] = {**rollout.__dict__, "status": transition.rollout, "reward": None, "attempt": attempt}
        return rows.construct(AttemptedRollout, fields)

    async def _unused_attempt_id(self, rollout_id: str, earlier_attempts: int) -> str:
        attempt_id = rows.new_id("at", 8)
        while earlier_attempts and await self.transaction.fetch(
            "SELECT 1 FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2", rollout_id, attempt_id
        ):
            attempt_id = rows.new_id("at", 8)
        return attempt_id

    async def _insert_attempts(self, begun: Sequence[AttemptedRollout]) -> None:
        rows_of_values = [
            (*each.attempt.__dict__.values(), self.lease, lifecycle.deadlines(each.config, self.lease, self.lease).next)
            for each in begun
        ]
        await self.transaction.execute_many(_INSERT_ATTEMPT, rows_of_values)

    async def _set_worker_busy(self, worker_id: str, attempt: Attempt) -> None:
        self.transaction.notify(("workers", ""))
        await self.transaction.execute(
            "INSERT INTO workers (worker_id, status, last_dequeue_time, last_busy_time, current_rollout_id, "
            "current_attempt_id) VALUES (?1, 'busy', ?2, ?3, ?4, ?5) ON CONFLICT (worker_id) DO UPDATE SET "
            "status = excluded.status, last_dequeue_time = excluded.last_dequeue_time, "
            "last_busy_time = excluded.last_busy_time, current_rollout_id = excluded.current_rollout_id, "
            "current_attempt_id = excluded.current_attempt_id",
            worker_id,
            self.now,
            self.now,
            attempt.rollout_id,
            attempt.attempt_id,
        )

    async def _restore_worker(self, worker_id: str, state: AttemptState) -> None:
        await self.transaction.execute(
            "UPDATE workers SET status = 'busy', current_rollout_id = ?2, current_attempt_id = ?3 WHERE worker_id = ?1",
            worker_id,
            state.rollout_id,
            state.attempt_id,
        )

    async def _release_worker(self, worker_id: str, attempt: int, status: AttemptStatus) -> None:
        self.transaction.notify(("workers", ""))
        if status == "unresponsive":
            await self.transaction.execute("UPDATE workers SET status = 'unknown' WHERE worker_id = ?1", worker_id)
        else:
            await self.transaction.execute(_RELEASE_WORKER, worker_id, attempt, self.now)


_INSERT_ATTEMPT = (
    f"INSERT INTO attempts ({', '.join(rows.ATTEMPT_FIELDS)}, lease_start, lease_seen, deadline, last_sequence_id) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?11, 0)"
)
_RELEASE_WORKER = (
    "UPDATE workers SET (status, last_idle_time, current_rollout_id, current_attempt_id) = ("
    "SELECT CASE WHEN held.attempt_id IS NULL THEN 'idle' ELSE status END, "
    "CASE WHEN held.attempt_id IS NULL THEN ?3 ELSE last_idle_time END, held.rollout_id, held.attempt_id "
    "FROM (SELECT 1) AS one LEFT JOIN (SELECT rollout_id, attempt_id FROM attempts "
    "WHERE worker_id = ?1 AND deadline IS NOT NULL AND ordinal <> ?2 ORDER BY ordinal DESC LIMIT 1) AS held ON true"
    ") WHERE worker_id = ?1"
)
"""SQL to update a worker after one of its attempts has ended.

If the worker has other live attempts, the newest of them becomes its current attempt. Otherwise, the worker becomes
idle.
"""


@lru_cache
def _update_sql(form: str, *columns: str) -> str:
    return "UPDATE " + form.format(", ".join(f"{name} = ?{number}" for number, name in enumerate(columns, 2)))


def _with_reason(metadata: bytes | None, reason: str) -> bytes:
    known: dict[str, Any] = {} if metadata is None else orjson.loads(metadata)
    return orjson.dumps({**known, "reason": reason})
