"""What a store's owner does to its database, beside the store that serves it: check it, delete what is old."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw

from ..errors import StoreUnavailable
from .db.backup import reading
from .db.clock import Clock
from .db.sqlite import SqliteDatabase
from .factory import PostgresLightningStore
from .sql import SqlStore

AT_ONCE = 200
"""Rollouts deleted in one transaction: a store beside it waits some milliseconds for each."""

# What is true of every database between two commits; each finds the rows of which it is not.
_BROKEN_IF_ANY = {
    "in the queue without waiting for a worker": (
        "SELECT rollout_id FROM rollouts WHERE queue_position IS NOT NULL AND status NOT IN ('queuing', 'requeuing')"
    ),
    "waits for a worker but is not in the queue": (
        "SELECT rollout_id FROM rollouts WHERE queue_position IS NULL AND status IN ('queuing', 'requeuing')"
    ),
    "has more than one live attempt": (
        "SELECT rollout_id FROM attempts WHERE status IN ('preparing', 'running') GROUP BY rollout_id "
        "HAVING count(*) > 1"
    ),
    "has ended without a time of its end": (
        "SELECT rollout_id FROM rollouts WHERE status IN ('succeeded', 'failed', 'cancelled') AND end_time IS NULL"
    ),
    "has ended but an attempt is live": (
        "SELECT rollout_id FROM rollouts JOIN attempts USING (rollout_id) WHERE rollouts.status IN "
        "('succeeded', 'failed', 'cancelled') AND attempts.status IN ('preparing', 'running')"
    ),
    "is carried out without a deadline": (
        "SELECT rollout_id FROM attempts WHERE status IN ('preparing', 'running') AND deadline IS NULL"
    ),
    "names an attempt that is not there": (
        "SELECT rollout_id FROM rollouts r WHERE attempt_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM attempts a "
        "WHERE a.rollout_id = r.rollout_id AND a.attempt_id = r.attempt_id)"
    ),
    "has attempts but is not there": (
        "SELECT rollout_id FROM attempts WHERE rollout_id NOT IN (SELECT rollout_id FROM rollouts)"
    ),
}
MOST_FINDINGS = 20


def check(source: Path) -> list[str]:
    """What is wrong with a database, in sentences; none when it is sound."""
    connection = reading(source)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        for what, sql in _BROKEN_IF_ANY.items():
            found += [f"rollout {row[0]} {what}" for row in connection.execute(sql)]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    finally:
        connection.close()
    return found[:MOST_FINDINGS]


async def collect(
    db: str, age: float, *, dry_run: bool = False, progress: Callable[[int, int], None] = lambda _, __: None
) -> int:
    """Delete the rollouts that ended more than `age` seconds ago, with all that is theirs; how many they were.

    `progress` hears now and then how many have gone, and of how many.
    """
    store, moment = _beside(db), time.time() - age
    async with store:
        there = await store.count_ended_before(moment)
        if dry_run:
            return there
        gone = 0
        while deleted := await store.delete_ended_before(moment, AT_ONCE):
            gone += deleted
            progress(gone, max(gone, there))
        return gone


class _Beside(SqlStore):
    """A store without timers, beside the one that owns the file: it only deletes what nothing changes any more."""

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteDatabase(path, owner=False), Clock())


def _beside(db: str) -> SqlStore:
    if db.startswith(("postgresql:", "postgres:")):
        return PostgresLightningStore(db)
    path = Path(db.removeprefix("sqlite:///").removeprefix("sqlite:"))
    if not path.exists():
        raise StoreUnavailable(f"there is no database {path.absolute()}")
    return _Beside(path)
