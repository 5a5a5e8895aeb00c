"""How a decision of the lifecycle is written: the rows of attempt, rollout and worker, and who is woken.

Each function is a piece of a transaction. The rollout's row is always read first, and for update, so that on a
database with many writers two moves of one rollout cannot overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ...errors import NotFound
from ...types import Attempt, AttemptedRollout, AttemptStatus
from .. import lifecycle
from ..db.database import Dialect, Row, Transaction
from ..db.signals import QUEUE, ended, news
from ..lifecycle import Following, Standing
from . import rows
from .rows import AttemptRow

LATEST = "latest"
TAIL = "(SELECT coalesce(max(queue_position), 0) + 1 FROM rollouts WHERE queue_position IS NOT NULL)"
"""The queue's next place, in SQL."""


class Moves:
    """Moves within one transaction, at one moment: `now` on the wall, `lease` on the store's own clock."""

    def __init__(self, transaction: Transaction, dialect: Dialect, now: float, lease: float) -> None:
        self.transaction = transaction
        self.now = now
        self.lease = lease
        self.dialect = dialect
        self._for_update = dialect.for_update
        self._skip_locked = dialect.skip_locked

    # Reading

    async def rollout_row(self, rollout_id: str) -> Row:
        """The rollout and its latest attempt. Raises `NotFound`."""
        if self._for_update:
            await self.transaction.fetch(f"SELECT 1 FROM rollouts WHERE rollout_id = ?1{self._for_update}", rollout_id)
        found = await self.transaction.fetch(
            f"SELECT {rows.ROLLOUT_AND_ATTEMPT} FROM {rows.ROLLOUTS} WHERE r.rollout_id = ?1", rollout_id
        )
        if not found:
            raise NotFound(f"no rollout {rollout_id} in this store", field="rollout_id")
        return found[0]

    async def attempt_row(self, rollout_id: str, attempt_id: str) -> AttemptRow:
        """Where the attempt stands; `"latest"` is the rollout's latest one. Raises `NotFound`."""
        if self._for_update and attempt_id == LATEST:  # which one that is must not change while its row is waited for
            await self.rollout_row(rollout_id)
        which = "r.attempt_id" if attempt_id == LATEST else "?2"
        found = await self.transaction.fetch(
            f"SELECT {rows.STANDING} FROM {rows.STANDINGS} WHERE a.rollout_id = ?1 AND a.attempt_id = {which}"
            f"{self._for_update}",
            *([rollout_id] if attempt_id == LATEST else [rollout_id, attempt_id]),
        )
        if not found:
            await self.rollout_row(rollout_id)
            raise NotFound(f"rollout {rollout_id} has no attempt {attempt_id}", field="attempt_id")
        return AttemptRow(found[0])

    # Beginning

    async def next_queued(self, limit: int) -> list[Row]:
        """Rollouts at the queue's head, oldest first."""
        return list(
            await self.transaction.take(
                f"SELECT {rows.ROLLOUT}, r.queue_position, r.attempts FROM rollouts r WHERE queue_position IS NOT NULL "
                f"ORDER BY queue_position, ordinal LIMIT ?1{self._skip_locked}",
                limit,
            )
        )

    async def begin(self, queued: Sequence[tuple[Row, int]], worker_id: str | None) -> list[AttemptedRollout]:
        """A new attempt of each rollout, which thereby leaves the queue; beside each is how many it had."""
        begun = [await self._begun(row, earlier_attempts, worker_id) for row, earlier_attempts in queued]
        await self._insert_attempts(begun)
        await self.transaction.execute_many(
            "UPDATE rollouts SET status = ?2, attempt_id = ?3, attempts = ?4, queue_position = NULL, reward = NULL "
            "WHERE rollout_id = ?1",
            [(each.rollout_id, each.status, each.attempt.attempt_id, each.attempt.sequence_id) for each in begun],
        )
        for each in begun:
            self.transaction.announce(news("rollout", each.rollout_id))
        if worker_id is not None and begun:
            await self._worker_took(worker_id, begun[-1].attempt)
        return begun

    async def enqueue(self, rollout_id: str, status: str) -> None:
        """Put a rollout at the queue's tail."""
        await self.transaction.execute(
            f"UPDATE rollouts SET status = ?2, queue_position = {TAIL} WHERE rollout_id = ?1",
            rollout_id,
            status,
        )
        self.transaction.announce(QUEUE, 1)
        self.transaction.announce(news("rollout", rollout_id))

    # Going on

    async def sign_of_life(self, row: AttemptRow) -> bool:
        """Note a heartbeat or span; False when it comes too late to count."""
        following = lifecycle.sign_of_life(row.standing)
        if following is None:
            return False
        await self._set_rollout(row, following)
        if row.standing.attempt == "unresponsive" and row.worker is not None:
            await self._worker_is_back(row.worker, row.standing)
        due = lifecycle.deadlines(row.config, row.lease_start, self.lease).next
        row.status, row.end_time, row.last_heartbeat_time = following.attempt or row.status, None, self.now
        await self.transaction.execute(
            "UPDATE attempts SET status = ?2, last_heartbeat_time = ?3, lease_seen = ?4, deadline = ?5, "
            "end_time = NULL, last_sequence_id = ?6 WHERE ordinal = ?1",
            row.ordinal,
            row.status,
            self.now,
            self.lease,
            due,
            row.last_sequence_id,
        )
        return True

    async def note_reward(self, standing: Standing, reward: float) -> None:
        """The attempt said what it was worth; the latest one speaks for its rollout."""
        if standing.latest:
            await self.transaction.execute(
                "UPDATE rollouts SET reward = ?2 WHERE rollout_id = ?1", standing.rollout_id, reward
            )
            self.transaction.announce(news("rollout", standing.rollout_id))

    # Ending

    async def follow(self, row: AttemptRow, following: Following, *, reason: str | None = None) -> None:
        """Write what follows a report on an attempt; `reason` is kept with the attempt."""
        status = following.attempt
        assert status is not None
        if status == "running":
            await self.sign_of_life(row)
            return
        row.status, row.end_time = status, self.now
        row.metadata = row.metadata if reason is None else _with_reason(row.metadata, reason)
        if row.worker is not None:
            await self._worker_let_go(row.worker, row.ordinal, status)
        await self.transaction.execute(
            "UPDATE attempts SET status = ?2, end_time = ?3, deadline = NULL, metadata = ?4 WHERE ordinal = ?1",
            row.ordinal,
            status,
            self.now,
            row.metadata,
        )
        await self._set_rollout(row, following)

    async def end_live_attempt(self, rollout_id: str, status: AttemptStatus, reason: str) -> None:
        """End the rollout's live attempt, if it has one, without asking what follows for the rollout."""
        found = await self.transaction.fetch(
            f"SELECT {rows.STANDING} FROM {rows.STANDINGS} "
            "WHERE a.rollout_id = ?1 AND a.attempt_id = r.attempt_id AND a.deadline IS NOT NULL",
            rollout_id,
        )
        for row in map(AttemptRow, found):
            await self.follow(row, Following(row.standing.rollout, status), reason=reason)

    async def end_rollout(self, rollout_id: str, status: str) -> None:
        """Give the rollout its final status, and wake those who wait for it."""
        await self.transaction.execute(
            "UPDATE rollouts SET status = ?2, end_time = ?3, queue_position = NULL WHERE rollout_id = ?1",
            rollout_id,
            status,
            self.now,
        )
        self.transaction.announce(ended(rollout_id))

    # Helpers

    async def _set_rollout(self, row: AttemptRow, following: Following) -> None:
        if following.rollout == row.standing.rollout:
            return
        rollout_id = row.standing.rollout_id
        if following.rollout in lifecycle.FINAL:
            await self.end_rollout(rollout_id, following.rollout)
        elif following.rollout in lifecycle.QUEUED:
            self.transaction.count("requeues")
            await self.enqueue(rollout_id, following.rollout)
        else:
            await self.transaction.execute(
                "UPDATE rollouts SET status = ?2, queue_position = NULL WHERE rollout_id = ?1",
                rollout_id,
                following.rollout,
            )
            self.transaction.announce(news("rollout", rollout_id))

    async def _begun(self, row: Row, earlier_attempts: int, worker_id: str | None) -> AttemptedRollout:
        rollout = rows.rollout(row)
        following = lifecycle.claim(rollout.status)
        attempt = rows.attempt(
            (
                rollout.rollout_id,
                await self._fresh_attempt_id(rollout.rollout_id, earlier_attempts),
                earlier_attempts + 1,
                self.now,
                None,
                following.attempt,
                worker_id,
                None,
                None,
            )
        )
        fields: dict[str, Any] = {**rollout.__dict__, "status": following.rollout, "reward": None, "attempt": attempt}
        return rows.built(AttemptedRollout, fields)

    async def _fresh_attempt_id(self, rollout_id: str, earlier_attempts: int) -> str:
        attempt_id = rows.new_id("at", 8)
        while earlier_attempts and await self.transaction.fetch(
            "SELECT 1 FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2", rollout_id, attempt_id
        ):
            attempt_id = rows.new_id("at", 8)
        return attempt_id

    async def _insert_attempts(self, begun: Sequence[AttemptedRollout]) -> None:
        await self.transaction.execute_many(
            "INSERT INTO attempts (rollout_id, attempt_id, sequence_id, start_time, status, worker_id, "
            "lease_start, lease_seen, deadline, last_sequence_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0)",
            [
                (
                    each.rollout_id,
                    each.attempt.attempt_id,
                    each.attempt.sequence_id,
                    each.attempt.start_time,
                    each.attempt.status,
                    each.attempt.worker_id,
                    self.lease,
                    self.lease,
                    lifecycle.deadlines(each.config, self.lease, self.lease).next,
                )
                for each in begun
            ],
        )

    async def _worker_took(self, worker_id: str, attempt: Attempt) -> None:
        self.transaction.announce(news("workers"))
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

    async def _worker_is_back(self, worker_id: str, standing: Standing) -> None:
        await self.transaction.execute(
            "UPDATE workers SET status = 'busy', current_rollout_id = ?2, current_attempt_id = ?3 WHERE worker_id = ?1",
            worker_id,
            standing.rollout_id,
            standing.attempt_id,
        )

    async def _worker_let_go(self, worker_id: str, attempt: int, status: AttemptStatus) -> None:
        self.transaction.announce(news("workers"))
        if status == "unresponsive":
            await self.transaction.execute("UPDATE workers SET status = 'unknown' WHERE worker_id = ?1", worker_id)
        else:
            await self.transaction.execute(_LET_GO, worker_id, attempt, self.now)


_LET_GO = (
    "UPDATE workers SET (status, last_idle_time, current_rollout_id, current_attempt_id) = ("
    "SELECT CASE WHEN held.attempt_id IS NULL THEN 'idle' ELSE status END, "
    "CASE WHEN held.attempt_id IS NULL THEN ?3 ELSE last_idle_time END, held.rollout_id, held.attempt_id "
    "FROM (SELECT 1) AS one LEFT JOIN (SELECT rollout_id, attempt_id FROM attempts "
    "WHERE worker_id = ?1 AND deadline IS NOT NULL AND ordinal <> ?2 ORDER BY ordinal DESC LIMIT 1) AS held ON true"
    ") WHERE worker_id = ?1"
)
"""A worker that has let go of one attempt is idle, unless it holds another."""


def _with_reason(metadata: bytes | None, reason: str) -> bytes:
    known: dict[str, Any] = {} if metadata is None else orjson.loads(metadata)
    return orjson.dumps({**known, "reason": reason})
