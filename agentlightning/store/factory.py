"""The store classes (in memory, in a SQLite file, in PostgreSQL, read-only), and `open_store` to open one by URL."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import apsw

from .. import payload
from ..errors import InvalidInput, StoreUnavailable
from .contract import LightningStore, Route, implement_operations
from .db.sqlite import Durability, ReadOnlyDatabase, SqliteDatabase
from .maintenance import PeriodicTask, backup, start_timers
from .operations import operation_table
from .sql import SqlStore
from .sql.base import Clock
from .sql.schema import STEPS, migrate, prepare_postgres, schema_version

if TYPE_CHECKING:
    from .db.postgres.database import PostgresDatabase

logger = logging.getLogger(__name__)

DEADLINE_INTERVAL = 0.25
"""Seconds between checks for attempts with expired deadlines. Each check is an indexed query of a few microseconds."""
CLOCK_SYNC_INTERVAL = 0.5
"""Seconds between synchronisations of the lease clocks of all servers that share a PostgreSQL database.

This is also the maximum difference between these clocks.
"""
PRUNE_INTERVAL = 60.0


def _validated(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return the operation with the argument checks that the HTTP server applies to a request."""
    operation = operation_table()[route.name]
    execute = getattr(SqlStore, route.name)

    async def call(self: SqlStore, *args: Any, **kwargs: Any) -> Any:
        arguments = operation.validate(operation.bind(args, kwargs))
        for name, value in arguments.items():
            payload.check(value, field=name)
        return await execute(self, **arguments)

    return call


@implement_operations(_validated)
class _LocalStore(SqlStore):
    """A store in this process. It validates arguments like the store server and runs its own periodic tasks."""

    def __init__(self, database: SqliteDatabase | PostgresDatabase) -> None:
        super().__init__(database, Clock())
        try:
            self._clock.resume(self._prepare())
        except BaseException:
            database.close_now()
            raise
        self._timers = start_timers(self._periodic_tasks())

    async def close(self) -> None:
        self._timers.stop()
        await super().close()

    def _prepare(self) -> float:
        """Create or migrate the tables and return the store's current lease time (see `Clock`)."""
        raise NotImplementedError

    def _periodic_tasks(self) -> list[PeriodicTask]:
        return [PeriodicTask(self.expire_overdue, DEADLINE_INTERVAL), PeriodicTask(self.prune, PRUNE_INTERVAL)]


class _SqliteStore(_LocalStore):
    """A store that uses SQLite."""

    _database: SqliteDatabase

    def _prepare(self) -> float:
        _migrate(self._database)
        seen = self._database.run(lambda transaction: transaction.fetch("SELECT max(lease_seen) FROM attempts"))
        return seen[0][0] or 0.0


def _migrate(database: SqliteDatabase) -> None:
    """Migrate the tables to this release's schema. First save a copy of the file if an older release created it."""
    version = database.run(schema_version)
    if database.path and 0 < version < len(STEPS):
        copy = database.path.with_name(f"{database.path.name}.before-{len(STEPS)}")
        if not copy.exists():  # an earlier migration that failed has already saved a copy
            backup(database.path, copy)
        logger.warning(
            "Migrating %s from schema %d to %d; the previous state is saved to %s",
            database.path,
            version,
            len(STEPS),
            copy,
        )
    database.run(lambda transaction: migrate(transaction, database.dialect))


class InMemoryLightningStore(_SqliteStore):
    """A store in this process's memory."""

    def __init__(self) -> None:
        super().__init__(SqliteDatabase(None))


class SqliteLightningStore(_SqliteStore):
    """A store in a SQLite file, which no other store may have open at the same time.

    With `durability="full"`, acknowledged changes survive a power failure. With `"process"`, they survive the end of
    the process but not a power failure. Raises `StoreInUse` if another store has the file open.
    """

    def __init__(self, path: str | Path, *, durability: Durability = "full") -> None:
        super().__init__(SqliteDatabase(path, durability=durability))
        self.path = Path(path)


class PostgresLightningStore(_LocalStore):
    """A store in a PostgreSQL database, `postgresql://user@host/database`. Several stores may share one database.

    Raises `StoreUnavailable` if the database is unreachable, and `MissingExtra` if the extra `[postgres]` is not
    installed.
    """

    _database: PostgresDatabase

    def __init__(self, dsn: str) -> None:
        from .db.postgres.database import PostgresDatabase

        super().__init__(PostgresDatabase(dsn))

    def _prepare(self) -> float:
        return self._database.run(lambda transaction: prepare_postgres(transaction, self._database.dialect))

    def _periodic_tasks(self) -> list[PeriodicTask]:
        async def sync_clock() -> None:
            self._clock.catch_up(await self._database.sync_lease_clock(self._clock.lease()))

        return [PeriodicTask(sync_clock, CLOCK_SYNC_INTERVAL), *super()._periodic_tasks()]


class ReadOnlyStore(SqlStore):
    """A store that only reads a SQLite database. Another store may have the database open.

    Raises `StoreUnavailable` if the file is not a store database with this release's schema.
    """

    read_only = True

    def __init__(self, path: str | Path) -> None:
        database = ReadOnlyDatabase(Path(path).absolute())
        super().__init__(database, Clock())
        try:
            version = database.run(lambda transaction: transaction.fetch("SELECT version FROM schema_version"))
        except apsw.SQLError:
            raise StoreUnavailable(f"{path} is not the database of a store") from None
        if version != [(len(STEPS),)]:
            raise StoreUnavailable(
                f"{path} was written by another release; open it once with `agl store` to migrate it"
            )


def open_for_maintenance(db: str) -> SqlStore:
    """Open a store for maintenance, even while another store is serving its database.

    This is safe because maintenance deletes only rollouts that have ended, and their rows no longer change.
    """
    if db.startswith(("postgresql:", "postgres:")):
        return PostgresLightningStore(db)
    path = Path(db.removeprefix("sqlite:///").removeprefix("sqlite:"))
    if not path.exists():
        raise StoreUnavailable(f"there is no database {path.absolute()}")
    return SqlStore(SqliteDatabase(path, exclusive=False), Clock())


def open_store(url: str, *, durability: Durability = "full") -> LightningStore:
    """Open the store at a URL or path: `memory:`, `agl.db`, `sqlite:///path`, `postgresql://…`, `http://host:4747`."""
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
            f"no store for {url!r}; pass a file, memory:, sqlite:///…, postgresql://… or http://…", field="db"
        )
    return SqliteLightningStore(url, durability=durability)
