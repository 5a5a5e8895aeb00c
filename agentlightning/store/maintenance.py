"""Maintenance of a store: periodic tasks, checks and backups of the database, and deletion of old rollouts."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

from ..concurrency import BackgroundTask
from ..errors import InvalidInput, StoreUnavailable
from ..private_files import create_private_file
from .db.file_lock import check_not_open_elsewhere
from .sql import SqlStore

logger = logging.getLogger(__name__)

ROLLOUTS_PER_DELETION = 200
"""Maximum number of rollouts to delete in one transaction.

Each of these transactions delays any store that is serving the same database by a few milliseconds.
"""
MAX_FINDINGS = 20

# Descriptions of violations, and queries that return the ids of the affected rollouts. No commit may cause a violation.
_VIOLATIONS = {
    "is in the queue but has a status other than queuing or requeuing": (
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
    """Check a SQLite database, and return the descriptions of up to `MAX_FINDINGS` problems."""
    connection = open_alongside(source)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for violation, sql in _VIOLATIONS.items():
            found += [f"rollout {row[0]} {violation}" for row in connection.execute(sql)]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.FullError) as error:
        raise StoreUnavailable(
            f"the database {source} cannot be opened for writing ({error}): check that its folder is writable, and "
            "that the disk has free space"
        ) from None
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
    """Delete the rollouts that ended more than `age` seconds ago, with their attempts and spans.

    Return the number of these rollouts. If `dry_run` is true, count them without deleting them. `on_progress` is called
    after each transaction with the number of rollouts deleted so far and the total number of rollouts to delete.
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
    """A coroutine function to call repeatedly, with a pause of `interval` seconds after each call."""

    run_once: Callable[[], Awaitable[object]]
    interval: float

    async def run(self) -> None:
        while True:
            try:
                with suppress(StoreUnavailable):  # the database is unreachable: try again after the pause
                    await self.run_once()
            except Exception:
                logger.exception("A periodic task of the store failed; it will run again in %g s", self.interval)
            await asyncio.sleep(self.interval)


def start_timers(tasks: Iterable[PeriodicTask]) -> BackgroundTask[list[None]]:
    """Run periodic tasks in a separate thread, independently of requests, until the returned task is stopped."""
    return BackgroundTask(lambda: _run_together(tasks), name="agl-timers")


async def _run_together(tasks: Iterable[PeriodicTask]) -> list[None]:
    return await asyncio.gather(*(task.run() for task in tasks))


# Backup


def backup(source: Path, target: Path) -> int:
    """Copy a SQLite database, including all changes committed before the call, and return the copy's size in bytes.

    Raises `InvalidInput` if `target` already exists, and `StoreUnavailable` if the database cannot be copied.
    """
    if target.exists():
        raise InvalidInput(f"{target} already exists; a backup never overwrites a file, choose another", field="file")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        create_private_file(partial)
        _copy(source, partial)
    except (OSError, apsw.Error) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"{source} could not be copied to {target}: {error}") from None
    _sync(partial)
    partial.rename(target)
    _sync(target.parent)
    return target.stat().st_size


def open_alongside(source: Path) -> apsw.Connection:
    """Open a connection for reading a SQLite database, which a store may have open at the same time.

    Raises `StoreUnavailable` if the file does not exist.
    """
    if not source.exists():
        raise StoreUnavailable(f"there is no database {source.absolute()}")
    check_not_open_elsewhere(source.absolute())
    # Open for writing, because SQLite must create the index of the WAL if no other process has the database open.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(source.absolute()))}", flags=flags)
    connection.set_busy_timeout(5_000)
    return connection


def _copy(source: Path, target: Path) -> None:
    original, copy = open_alongside(source), apsw.Connection(str(target))
    try:
        with copy.backup("main", original, "main") as process:
            process.step(-1)  # copy all pages in one step, so that the copy is consistent
        copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        copy.close()
        original.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
