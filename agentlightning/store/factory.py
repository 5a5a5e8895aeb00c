"""The store classes (in-memory, SQLite, PostgreSQL, read-only), and `open_store`, which opens a store by its URL."""

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
from .db.connections import Durability
from .db.sqlite import ReadOnlyDatabase, SqliteDatabase
from .maintenance import PeriodicTask, backup, start_timers
from .operations import operation_table
from .sql import SqlStore
from .sql.base import Clock
from .sql.schema import STEPS, migrate, prepare_postgres, schema_version

if TYPE_CHECKING:
    from .db.postgres.database import PostgresDatabase

logger = logging.getLogger(__name__)

DEADLINE_INTERVAL = 0.25
"""Seconds between checks for attempts with expired deadlines. Each check is an index lookup that takes microseconds."""
CLOCK_SYNC_INTERVAL = 0.5
"""Seconds between synchronisations of the lease clocks of all servers that share a PostgreSQL database.

Deadlines are measured with the lease clock (see `Clock`). Two of these clocks may differ by up to this interval.
"""
PRUNE_INTERVAL = 60.0


def _validated(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return a method that validates its arguments like the HTTP server and then executes the operation."""
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
    """A store that runs in this process, validates arguments like the HTTP server, and runs its own periodic tasks."""

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
    """Create the tables, or migrate them to this release's schema after saving a copy of the database file."""
    version = database.run(schema_version)
    if database.path and 0 < version < len(STEPS):
        copy = database.path.with_name(f"{database.path.name}.before-{len(STEPS)}")
        if not copy.exists():  # the copy exists if an earlier migration failed
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
    """A store in the memory of this process."""

    def __init__(self) -> None:
        super().__init__(SqliteDatabase(None))


class SqliteLightningStore(_SqliteStore):
    """A store in a SQLite file. Only one `SqliteLightningStore` may have the file open at a time.

    With `durability="full"`, acknowledged changes survive a power failure. With `"process"`, they survive the end of
    the process but not a power failure. Raises `StoreInUse` if another store has the file open.
    """

    def __init__(self, path: str | Path, *, durability: Durability = "full") -> None:
        super().__init__(SqliteDatabase(path, durability=durability))
        self.path = Path(path)


class PostgresLightningStore(_LocalStore):
    """A store in a PostgreSQL database. Several stores may share one database.

    `dsn` is a URL such as `postgresql://user@host/database`. Raises `StoreUnavailable` if the database is unreachable,
    and `MissingExtra` if the extra `[postgres]` is not installed.
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
    """A read-only store for a SQLite database, which another store may have open at the same time.

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
    """Open a store for maintenance, even while another store is serving the same database.

    This is safe, because maintenance deletes only rollouts that have ended. Raises `StoreUnavailable` if the database
    does not exist.
    """
    if db.startswith(("postgresql:", "postgres:")):
        return PostgresLightningStore(db)
    path = Path(db.removeprefix("sqlite:///").removeprefix("sqlite:"))
    if not path.exists():
        raise StoreUnavailable(f"there is no database {path.absolute()}")
    return SqlStore(SqliteDatabase(path, exclusive=False), Clock())


def open_store(url: str, *, durability: Durability = "full") -> LightningStore:
    """Open the store at a URL or path: `memory:`, `agl.db`, `sqlite:///path`, `postgresql://…` or `http://host:4747`.

    The parameter `durability` applies only to SQLite files; see `SqliteLightningStore`.
    """
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
