"""`store`, in turn reached in every way there is; another way is one line in `WAYS`."""

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
    # What these tests are about is never the disk.
    async with SqliteLightningStore(path / "agl.db", durability="process") as store:
        yield store


@asynccontextmanager
async def postgres(_: Path) -> AsyncIterator[LightningStore]:
    async with empty_store() as store:
        yield store


def http(over: Way) -> Way:
    """The same store, at the other end of a connection."""

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


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def store(way: str, tmp_path: Path) -> AsyncIterator[LightningStore]:
    async with WAYS[way](tmp_path) as store:
        yield store
