"""Shutdown of a store server: it answers requests in flight, releases waiting ones, and reports those it drops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer

from ..contract.making import soon
from ..faults.lossy import served
from ..timing import quickest

CLAIM = b'{"limit": 1, "wait": 30}'
HEAD = b"POST /dequeue_many_rollouts HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(CLAIM)


class SlowClient:
    """A client that sends its request in parts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answer = asyncio.ensure_future(reader.read())
        self._writer = writer

    async def send(self, part: bytes) -> None:
        self._writer.write(part)
        await self._writer.drain()


@asynccontextmanager
async def request_without_body() -> AsyncIterator[tuple[LightningStoreServer, SlowClient]]:
    """A server, and a client of whose claim only the head has arrived."""
    async with served(InMemoryLightningStore()) as server:
        url = urlsplit(server.endpoint)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        client = SlowClient(reader, writer)
        await client.send(HEAD)
        uvicorn: Any = server._server
        while not uvicorn.server_state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
        yield server, client
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def waiters_released(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the server releases its waiting requests."""
    released, loop = asyncio.Event(), asyncio.get_running_loop()
    release = InMemoryLightningStore.release_waiters

    def release_and_report(store: Any) -> None:
        release(store)
        loop.call_soon_threadsafe(released.set)

    monkeypatch.setattr(InMemoryLightningStore, "release_waiters", release_and_report)
    return released


async def test_long_poll_that_arrives_during_shutdown_is_answered_at_once(
    waiters_released: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with request_without_body() as (server, client):
        stopping = asyncio.ensure_future(server.stop())
        await soon(waiters_released.wait())
        await client.send(CLAIM)

        answer = await soon(client.answer)
        await soon(stopping)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"[]")
    assert "Cancelled" not in caplog.text


async def test_request_that_does_not_arrive_before_the_shutdown_gets_503(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentlightning.store.http.server.DRAIN_SECONDS", 0)
    async with request_without_body() as (server, client):
        await soon(server.stop())

        answer = await soon(client.answer)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer.lower()
    assert "Traceback" not in caplog.text


async def test_idle_server_stops_within_a_tenth_of_a_second_despite_open_connections() -> None:
    async def seconds_to_stop() -> float:
        async with served(InMemoryLightningStore()) as server, aiohttp.ClientSession() as session:
            async with session.get(f"{server.endpoint}/health") as response:
                await response.read()
            started = time.monotonic()
            await server.stop()
            return time.monotonic() - started

    assert await quickest(seconds_to_stop, 0.05) < 0.1
