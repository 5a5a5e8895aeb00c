"""A server that ends: what is under way is answered, nobody is kept waiting, and who gets no answer is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer

from ..contract.making import soon

CLAIM = b'{"limit": 1, "wait": 30}'
HEAD = b"POST /dequeue_many_rollouts HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(CLAIM)


class Caller:
    """Someone whose request is slow to arrive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answer = asyncio.ensure_future(reader.read())
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def of(cls, server: LightningStoreServer) -> AsyncIterator[Caller]:
        place = urlsplit(server.endpoint)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        yield cls(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def send(self, part: bytes) -> None:
        self._writer.write(part)
        await self._writer.drain()


@pytest.fixture
async def told_to_end(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the server sends home those who wait."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    release = InMemoryLightningStore.release_waiters

    def releasing(store: Any) -> None:
        release(store)
        loop.call_soon_threadsafe(told.set)

    monkeypatch.setattr(InMemoryLightningStore, "release_waiters", releasing)
    return told


async def under_way(server: LightningStoreServer) -> None:
    """Until the server has begun with a request."""
    uvicorn: Any = server._server
    while not uvicorn.server_state.tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)


@asynccontextmanager
async def half_asked() -> AsyncIterator[tuple[LightningStoreServer, Caller]]:
    """A server, and a caller of whose claim only the head has arrived there."""
    async with InMemoryLightningStore() as store:
        server = LightningStoreServer(store, port=0)
        await server.start()
        async with Caller.of(server) as caller:
            await caller.send(HEAD)
            await under_way(server)
            yield server, caller


async def test_a_poll_that_arrives_while_the_store_ends_is_answered_at_once(
    told_to_end: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with half_asked() as (server, caller):
        stopping = asyncio.ensure_future(server.stop())
        await soon(told_to_end.wait())
        await caller.send(CLAIM)

        answer = await soon(caller.answer)
        await soon(stopping)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"[]")
    assert "Gave up" not in caplog.text


async def test_a_request_that_does_not_arrive_before_the_store_has_ended_is_told_to_try_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentlightning.store.http.server.DRAIN_SECONDS", 0)
    async with half_asked() as (server, caller):
        await soon(server.stop())

        answer = await soon(caller.answer)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer.lower()
    assert "Traceback" not in caplog.text
