"""Maintenance of a store: periodic tasks, consistency checks of the database, and deletion of old rollouts."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from ..errors import StoreUnavailable
from .db.backup import open_alongside
from .sql import SqlStore

logger = logging.getLogger(__name__)

ROLLOUTS_PER_DELETION = 200
"""Rollouts deleted per transaction. A store that serves the same database waits a few milliseconds per transaction."""
MAX_FINDINGS = 20

# Invariants that hold after every commit. Each query returns the rollouts that violate one invariant.
_VIOLATIONS = {
    "is in the queue but has another status than queuing or requeuing": (
        "SELECT rollout_id FROM rollouts WHERE queue_position IS NOT NULL AND status NOT IN ('queuing', 'requeuing')"
    ),
    "has the status queuing or requeuing but is not in the queue": (
        "SELECT rollout_id FROM rollouts WHERE queue_position IS NULL AND status IN ('queuing', 'requeuing')"
    ),
    "has more than one live attempt": (
        "SELECT rollout_id FROM attempts WHERE status IN ('preparing', 'running') GROUP BY rollout_id "
        "HAVING count(*) > 1"
    ),
    "has ended but has no end time": (
        "SELECT rollout_id FROM rollouts WHERE status IN ('succeeded', 'failed', 'cancelled') AND end_time IS NULL"
    ),
    "has ended but has a live attempt": (
        "SELECT rollout_id FROM rollouts JOIN attempts USING (rollout_id) WHERE rollouts.status IN "
        "('succeeded', 'failed', 'cancelled') AND attempts.status IN ('preparing', 'running')"
    ),
    "has a live attempt without a deadline": (
        "SELECT rollout_id FROM attempts WHERE status IN ('preparing', 'running') AND deadline IS NULL"
    ),
    "refers to an attempt that does not exist": (
        "SELECT rollout_id FROM rollouts r WHERE attempt_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM attempts a "
        "WHERE a.rollout_id = r.rollout_id AND a.attempt_id = r.attempt_id)"
    ),
    "has attempts but does not exist": (
        "SELECT rollout_id FROM attempts WHERE rollout_id NOT IN (SELECT rollout_id FROM rollouts)"
    ),
}


def check_database(source: Path) -> list[str]:
    """Return the problems found in a SQLite database, one sentence each, or an empty list if there are none."""
    connection = open_alongside(source)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for violation, sql in _VIOLATIONS.items():
            found += [f"rollout {row[0]} {violation}" for row in connection.execute(sql)]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    finally:
        connection.close()
    return found[:MAX_FINDINGS]


async def collect_garbage(
    store: SqlStore,
    age: float,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> int:
    """Delete the rollouts that ended more than `age` seconds ago, with their attempts and spans, and return the count.

    `on_progress` is called with the number of rollouts deleted so far and the total number.
    """
    ended_before = time.time() - age
    total = await store.count_ended_before(ended_before)
    if dry_run:
        return total
    deleted = 0
    while batch := await store.delete_ended_before(ended_before, ROLLOUTS_PER_DELETION):
        deleted += batch
        on_progress(deleted, max(deleted, total))
    return deleted


@dataclass
class PeriodicTask:
    """A coroutine function to call once per `interval` seconds."""

    run_once: Callable[[], Awaitable[object]]
    interval: float
    due: float = 0.0

    async def run_if_due(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.interval
        try:
            with suppress(StoreUnavailable):  # the disk or database is unreachable: the next call does the overdue work
                await self.run_once()
        except Exception:
            logger.exception("A periodic task of the store failed; it runs again in %g s", self.interval)


class Timers:
    """Runs periodic tasks in a separate thread, whether or not the store receives requests."""

    def __init__(self, *tasks: PeriodicTask) -> None:
        self._tasks = tasks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agl-timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the tasks and wait until the running task has finished."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        pause = min(task.interval for task in self._tasks)
        with asyncio.Runner() as runner:
            while not self._stop.wait(pause):
                runner.run(self._run_due())

    async def _run_due(self) -> None:
        for task in self._tasks:
            await task.run_if_due()
