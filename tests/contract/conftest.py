"""The fixture `store`: a store of every kind, in this process and over HTTP.

A test runs once for each of `DISTINCT_WAYS`, or of those in its marker `ways`. The store in memory has the class of the
one in a file; `every_way` marks the tests that depend on the database's readers or on notifications of servers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
)

from ..postgres import empty_store

Way = Callable[[Path], AbstractAsyncContextManager[LightningStore]]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[LightningStore]:
    async with InMemoryLightningStore() as store:
        yield store


@asynccontextmanager
async def file(path: Path) -> AsyncIterator[LightningStore]:
    # No test here depends on the disk.
    async with SqliteLightningStore(path / "agl.db", durability="process") as store:
        yield store


@asynccontextmanager
async def postgres(_: Path) -> AsyncIterator[LightningStore]:
    async with empty_store() as store:
        yield store


def http(over: Way) -> Way:
    """Serve the store and connect a client to it."""

    @asynccontextmanager
    async def served(path: Path) -> AsyncIterator[LightningStore]:
        async with over(path) as store:
            server = LightningStoreServer(store, port=0)
            await server.start()
            try:
                async with LightningStoreClient(server.endpoint) as client:
                    yield client
            finally:
                await server.stop()

    return served


WAYS: dict[str, Way] = {
    "memory": memory,
    "file": file,
    "http": http(file),
    "postgres": postgres,
    "http-postgres": http(postgres),
}


DISTINCT_WAYS = ("file", "http", "postgres")
every_way = pytest.mark.ways(*WAYS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("ways")
        metafunc.parametrize("way", marker.args if marker else DISTINCT_WAYS)


@pytest.fixture
async def store(way: str, tmp_path: Path) -> AsyncIterator[LightningStore]:
    async with WAYS[way](tmp_path) as store:
        yield store
