"""The stores by name and by URL: in memory, in a SQLite file, in PostgreSQL."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InvalidInput
from .contract import LightningStore, forwarding
from .db.backup import backup
from .db.clock import Clock
from .db.sqlite import Durability, SqliteDatabase
from .operations import checked
from .sql import SqlStore
from .sql.schema import STEPS, migrate, version_of_schema
from .timers import DEADLINES_SECONDS, LEASE_SECONDS, TIDY_SECONDS, Service, Timers

logger = logging.getLogger(__name__)


@forwarding(checked)
class _CheckedStore(SqlStore):
    """A store that takes from its own process nothing that it would not take from afar."""


class _SqliteStore(_CheckedStore):
    """A store over SQLite, with its deadlines watched."""

    def __init__(self, database: SqliteDatabase) -> None:
        clock = Clock()
        super().__init__(database, clock)
        try:
            _migrate(database)
        except BaseException:
            database.end()
            raise
        seen = database.run(lambda transaction: transaction.fetch("SELECT max(lease_seen) FROM attempts"))
        clock.resume(seen[0][0] or 0.0)
        self._timers = Timers(Service(self.give_up_overdue, DEADLINES_SECONDS), Service(self.tidy, TIDY_SECONDS))
        self._timers.start()

    async def close(self) -> None:
        self._timers.stop()
        await super().close()


def _migrate(database: SqliteDatabase) -> None:
    """Bring the tables to this release's; what an older one wrote is copied first."""
    version = database.run(version_of_schema)
    if database.path and 0 < version < len(STEPS):
        copy = database.path.with_name(f"{database.path.name}.before-{len(STEPS)}")
        if not copy.exists():  # it does after a migration that failed
            backup(database.path, copy)
        logger.warning(
            "Migrating %s from schema %d to %d; as it was, it is in %s", database.path, version, len(STEPS), copy
        )
    database.run(lambda transaction: migrate(transaction, database.dialect))


class InMemoryLightningStore(_SqliteStore):
    """A store that lives and dies with this process."""

    def __init__(self) -> None:
        super().__init__(SqliteDatabase(None))


class SqliteLightningStore(_SqliteStore):
    """A store in one SQLite file, which nobody else may have open at the same time.

    With `durability="full"` what it acknowledged survives a power cut, with `"process"` the end of the process.
    Raises `StoreInUse` when another store has the file open.
    """

    def __init__(self, path: str | Path, *, durability: Durability = "full") -> None:
        super().__init__(SqliteDatabase(path, durability=durability))
        self.path = Path(path)


class PostgresLightningStore(_CheckedStore):
    """A store in a PostgreSQL database, `postgresql://user@host/database`; any number of them share one.

    Raises `StoreUnavailable` when the database cannot be reached, `MissingExtra` without the extra `[postgres]`.
    """

    def __init__(self, dsn: str) -> None:
        from .db.postgres.database import PostgresDatabase, prepare

        database = PostgresDatabase(dsn)
        clock = Clock()
        super().__init__(database, clock)
        try:
            clock.resume(database.run(prepare))
        except BaseException:
            database.end()
            raise

        async def agree() -> None:
            clock.catch_up(await database.agree(clock.lease()))

        self._timers = Timers(
            Service(agree, LEASE_SECONDS),
            Service(self.give_up_overdue, DEADLINES_SECONDS),
            Service(self.tidy, TIDY_SECONDS),
        )
        self._timers.start()

    async def close(self) -> None:
        self._timers.stop()
        await super().close()


def open_store(url: str, *, durability: Durability = "full") -> LightningStore:
    """The store that a URL or path names: `memory:`, `agl.db`, `sqlite:///path`, `postgresql://…`, `http://host:4747`."""
    scheme = urlsplit(url).scheme
    if url in ("memory:", ":memory:", "memory"):
        return InMemoryLightningStore()
    if scheme in ("http", "https"):
        from .http.client import LightningStoreClient

        return LightningStoreClient(url)
    if scheme in ("postgresql", "postgres"):
        return PostgresLightningStore(url)
    if scheme == "sqlite":
        return SqliteLightningStore(url.removeprefix("sqlite:///").removeprefix("sqlite:"), durability=durability)
    if "://" in url:
        raise InvalidInput(
            f"no store for {url!r}: give a file, memory:, sqlite:///…, postgresql://… or http://…", field="db"
        )
    return SqliteLightningStore(url, durability=durability)
