"""Limits against requests that are too large, too slow or too many, while other clients are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from agentlightning.errors import StoreBusy
from agentlightning.http.limits import Limits
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer

from ..conftest import Figure
from ..contract.making import LONG_WAIT
from ..faults.lossy import served
from ..faults.slow_clients import SlowClientsResult, measure_beside_slow_clients
from ..timing import quickest
from .raw import Raw, gzip_bomb, send_bytes

TIGHT = Limits(body=100_000, bodies=250_000, requests=20, head=4_000)
SHORT = replace(TIGHT, head_seconds=0.2, body_seconds=0.2)


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), limits=TIGHT) as server:
        yield server


@pytest.fixture
async def short_timeouts() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), limits=SHORT) as server:
        yield server


def head(length: int) -> bytes:
    return b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


@asynccontextmanager
async def pending_requests(
    server: LightningStoreServer, count: int, length: int
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Connections whose requests lack their bodies."""
    url = urlsplit(server.endpoint)
    async with AsyncExitStack() as stack:
        connections = [await asyncio.open_connection(url.hostname, url.port) for _ in range(count)]
        for _, writer in connections:
            stack.callback(writer.close)
            writer.write(head(length))
        yield connections


# Time


@pytest.mark.parametrize("sent", [b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b""], ids=["half a head", "nothing"])
async def test_incomplete_headers_get_408(short_timeouts: LightningStoreServer, sent: bytes) -> None:
    started = time.monotonic()

    assert (await send_bytes(short_timeouts.endpoint, sent)).startswith(b"HTTP/1.1 408 ")
    assert 0.1 < time.monotonic() - started < 5


async def test_incomplete_body_gets_408(short_timeouts: LightningStoreServer) -> None:
    answer = await send_bytes(short_timeouts.endpoint, head(100) + b'{"input": ')

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


async def test_idle_and_slow_connections_do_not_delay_others(tmp_path: Path, figure: Figure) -> None:
    measured: list[SlowClientsResult] = []

    async def p99_in_ms() -> float:
        measured.append(await measure_beside_slow_clients(tmp_path, idle=1_000))
        return measured[-1].p99_in_ms

    assert await quickest(p99_in_ms, 100) < 100
    figure(measured[-1])


# Size


async def test_large_headers_get_431(server: LightningStoreServer) -> None:
    sent = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5_000

    assert (await send_bytes(server.endpoint, sent)).startswith(b"HTTP/1.1 431 ")


async def test_body_beyond_the_limit_gets_413(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        assert (await raw.call("enqueue_rollout", {"input": "x" * 90_000})).status == 200
        assert (await raw.call("enqueue_rollout", {"input": "x" * 110_000})).status == 413


async def test_body_of_fifty_megabytes_gets_413_while_others_are_served(server: LightningStoreServer) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        large = asyncio.create_task(send_bytes(server.endpoint, head(50_000_000) + b"x" * 50_000_000))
        rollout = await client.enqueue_rollout("task")

        assert (await large).startswith(b"HTTP/1.1 413 ")
        assert (await client.query_rollouts()).items == [rollout]


async def test_gzip_bomb_gets_413_with_little_time_and_memory(figure: Figure) -> None:
    bomb = gzip_bomb(2**26)
    media_type = "application/x-protobuf"

    async with served(InMemoryLightningStore()) as server, Raw(server.endpoint) as raw:

        async def seconds() -> float:
            started = time.process_time()
            traces = await raw.send("POST", "/v1/traces", bomb, Content_Encoding="gzip", Content_Type=media_type)
            json = await raw.send("POST", "/enqueue_rollout", bomb, Content_Encoding="gzip")
            assert (traces.status, 400 <= json.status < 500) == (413, True)
            return time.process_time() - started

        before = psutil.Process().memory_info().rss
        shortest = await quickest(seconds, 0.1)
        grown = psutil.Process().memory_info().rss - before

    figure(f"a gzip bomb of {len(bomb)} bytes: refused twice in {1000 * shortest:.0f} ms, {grown / 2**20:.0f} MB grown")
    assert grown < 64 * 2**20
    assert shortest < 0.1


# Numbers


async def test_full_store_returns_429_and_loses_no_admitted_request(server: LightningStoreServer) -> None:
    async with pending_requests(server, TIGHT.requests, length=11) as pending, Raw(server.endpoint) as raw:
        async with asyncio.timeout(LONG_WAIT):
            while (answer := await raw.call("enqueue_rollout", {"input": "refused"})).status == 200:
                pass
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert (await raw.send("GET", "/health")).status == 200
        assert "agl_refused_total 0" not in (await raw.send("GET", "/metrics")).text
        for _, writer in pending:
            writer.write(b'{"input":1}')
        assert [await reader.read(12) for reader, _ in pending] == [b"HTTP/1.1 200"] * TIGHT.requests

    async with LightningStoreClient(server.endpoint) as client:
        assert sum(each.input == 1 for each in await client.query_rollouts()) == TIGHT.requests


async def test_client_retries_until_a_full_store_admits_it(short_timeouts: LightningStoreServer) -> None:
    async with (
        pending_requests(short_timeouts, 3, length=90_000),
        LightningStoreClient(short_timeouts.endpoint, give_up_after=60) as client,
    ):
        await client.enqueue_rollout("x" * 60_000)  # admitted once the pending requests have timed out

        assert (await client.statistics())["queue_depth"] == 1


async def test_waiting_claims_count_against_no_limit(server: LightningStoreServer) -> None:
    count = 3 * TIGHT.requests
    async with LightningStoreClient(server.endpoint) as client:
        waiting = [asyncio.create_task(client.dequeue_rollout(wait=LONG_WAIT)) for _ in range(count)]
        rollouts = [await client.enqueue_rollout(number) for number in range(count)]

        claims: list[Any] = await asyncio.gather(*waiting)

    assert {claim.rollout_id for claim in claims} == {rollout.rollout_id for rollout in rollouts}


async def test_full_write_queue_raises_store_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with InMemoryLightningStore() as store:
        with monkeypatch.context() as patch:
            patch.setattr("agentlightning.store.db.sqlite.MAX_PENDING_WRITES", -1)
            with pytest.raises(StoreBusy):
                await store.enqueue_rollout("task")
        await store.enqueue_rollout("task")
