"""The store's HTTP server: every request, however malformed, has a defined outcome and harms no other client."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from agentlightning.http.limits import Limits
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer

from ..faults.lossy import served
from ..processes import TIMEOUT, Program, free_port
from ..timing import quickest
from .raw import Raw, send_bytes

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /enqueue_rollout HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"

REQUESTS = {
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
    "length and encoding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "encoding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "endless length": (POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", 400),
    "largest length": (POST + b"Content-Length: 9223372036854775807\r\n\r\n", 413),
    "chunk size of letters": (CHUNKED + b"zz\r\n", 400),
    "negative chunk size": (CHUNKED + b"-1\r\n", 400),
    "endless chunk size": (CHUNKED + b"f" * 100 + b"\r\n", 400),
    "endless chunk extension": (CHUNKED + b"1;" + b"x" * 600_000, 431),
    "endless trailer": (CHUNKED + b"0\r\nx: " + b"x" * 600_000, 431),
    "many trailers": (CHUNKED + b"0\r\n" + b"a:b\r\n" * 10_000, 431),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 403),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n", 200),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "upgrade": (GET + UPGRADE + b"\r\n", 200),
    "upgrade with a body": (POST + UPGRADE + b'Content-Length: 11\r\n\r\n{"input":1}', 400),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "URL without a path": (b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "path of 60 KB": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "path of 70 KB": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "NUL in a path": (b"GET /dashboard/%00 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "NUL in a query": (b"GET /dequeue_rollout?worker_id=%00 HTTP/1.1\r\n" + HOST + b"\r\n", 422),
    "escape in a path": (b"GET /\x1b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "control character in a header": (GET + b"X: a\x1bb\r\n\r\n", 400),
    "folded header": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "headers of 70 KB": (GET + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "headers of 70 KB in total": (GET + (b"X: " + b"x" * 1_000 + b"\r\n") * 70 + b"\r\n", 431),
    "201 headers": (GET + b"a:b\r\n" * 200 + b"\r\n", 431),
    "200 headers": (GET + b"a:b\r\n" * 199 + b"\r\n", 200),
    "10,000 headers": (GET + b"a:b\r\n" * 10_000 + b"\r\n", 431),
    "event id of 5,000 digits": (
        b"GET /events HTTP/1.1\r\n" + HOST + b"Last-Event-ID: a-" + b"9" * 5_000 + b"\r\n\r\n",
        422,
    ),
    "event id in Latin-1": (b"GET /events HTTP/1.1\r\n" + HOST + b"Last-Event-ID: a-\xb2\r\n\r\n", 422),
    "too many pipelined requests": ((GET + b"\r\n") * 1_000, None),
    "line breaks": (b"\r\n" * 40_000, 431),
}
"""Name, bytes, and status of the response; None if the connection is closed without one."""


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


@pytest.mark.parametrize(("sent", "status"), REQUESTS.values(), ids=REQUESTS)
async def test_malformed_request_has_a_defined_outcome(
    sent: bytes, status: int | None, server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await send_bytes(server.endpoint, sent)

    assert answer.partition(b"\r\n")[0].partition(b" ")[2][:3] == (b"%d" % status if status else b"")
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)
    async with Raw(server.endpoint) as raw:
        assert (await raw.send("GET", "/health")).status == 200


async def test_pipelined_requests_are_answered_in_order(server: LightningStoreServer) -> None:
    reader, writer = await connect(server)
    writer.write(GET + b"\r\n" + POST + b'Content-Length: 11\r\n\r\n{"input":1}' + GET + b"Connection: close\r\n\r\n")

    answers = (await reader.read()).split(b"HTTP/1.1 200 OK")
    writer.close()

    assert [b"rollout_id" in answer for answer in answers] == [False, False, True, False]


async def test_body_of_an_upgrade_request_is_not_parsed_as_a_request(server: LightningStoreServer) -> None:
    reader, writer = await connect(server)
    smuggled = POST + b'Content-Length: 11\r\n\r\n{"input":1}'
    writer.write(POST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(smuggled))
    await reader.readline()
    with suppress(ConnectionResetError):
        writer.write(smuggled)
        await reader.read()
    writer.close()

    assert list(await server.query_rollouts()) == []


async def test_ten_thousand_headers_are_refused_with_little_cpu_time(server: LightningStoreServer) -> None:
    async def seconds() -> float:
        started = time.process_time()
        assert b" 431 " in await send_bytes(server.endpoint, REQUESTS["10,000 headers"][0])
        return time.process_time() - started

    assert await quickest(seconds, 0.1) < 0.1


async def test_408_for_a_body_closes_the_connection() -> None:
    async with served(InMemoryLightningStore(), limits=replace(Limits(), body_seconds=0.2)) as server:
        reader, writer = await connect(server)
        writer.write(POST + b"Content-Length: 11\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), TIMEOUT)  # until the connection is closed
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("limit", [{"send_seconds": 0.2}, {"unsent": 2**20}], ids=str)
async def test_client_that_does_not_read_is_disconnected(limit: dict[str, Any]) -> None:
    async with served(InMemoryLightningStore(), limits=Limits(page_bytes=2**26, **limit)) as server:
        for _ in range(4):
            await server.enqueue_rollout("x" * 4_000_000)
        _, writer = await connect(server)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write((b"POST /query_rollouts HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}") * 4)
        async with asyncio.timeout(TIMEOUT):
            while connections(server):  # noqa: ASYNC110 - a client that does not read is not told
                await asyncio.sleep(0.05)
        writer.close()


# Listeners


async def test_event_streams_are_limited_even_if_requested_at_once() -> None:
    async with (
        served(InMemoryLightningStore(), limits=replace(Limits(), listeners=5)) as server,
        AsyncExitStack() as stack,
    ):
        statuses: list[bytes] = []
        for _ in range(20):
            reader, writer = await connect(server)
            stack.callback(writer.close)
            writer.write(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
            statuses.append((await reader.readline())[9:12])

        assert sorted(statuses) == [b"200"] * 5 + [b"429"] * 15


# File descriptors


@contextmanager
def store_with_file_limit(folder: Path, limit: int) -> Generator[tuple[Program, int]]:
    port = free_port()
    with Program("agentlightning.cli", "store", "--port", str(port), cwd=folder) as program:
        program.wait_for_line("^Store at")
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (limit, limit))
        yield program, port


@pytest.mark.parametrize("sent", [GET + b"\r\n", b"", b"GET / HT"], ids=["keep-alive", "silent", "half a head"])
async def test_idle_connections_give_way_when_file_descriptors_run_out(tmp_path: Path, sent: bytes) -> None:
    with store_with_file_limit(tmp_path, 64) as (_, port):
        async with AsyncExitStack() as stack:
            for _ in range(120):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(sent)
                if sent.endswith(b"\r\n\r\n"):
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "locked out"

            async with LightningStoreClient(f"http://127.0.0.1:{port}", give_up_after=5) as client:
                for number in range(20):
                    await client.enqueue_rollout(number)


async def test_connection_gets_503_when_no_connection_is_idle(tmp_path: Path) -> None:
    with store_with_file_limit(tmp_path, 64) as (_, port):
        async with AsyncExitStack() as stack:
            statuses: set[bytes] = set()
            while b"503" not in statuses:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
                statuses.add((await reader.readline())[9:12])

        async with LightningStoreClient(f"http://127.0.0.1:{port}", give_up_after=5) as client:
            await client.enqueue_rollout("task")


def test_store_raises_its_soft_limit_of_file_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    try:
        program = Program("agentlightning.cli", "store", "--port", "0", "--db", "memory:", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with program:
        program.wait_for_line("^Store at")
        assert resource.prlimit(program.pid, resource.RLIMIT_NOFILE)[0] == hard


# Log


async def test_access_log_contains_no_key_and_no_character_that_could_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = "sk-proj-" + "a1B2" * 12
    forged = "%0d%0a2026-01-01%20[ERROR]%20FORGED%1b]0;p%07%c2%9b%e2%80%ae" + "x" * 20_000
    with caplog.at_level(logging.INFO, "agentlightning.store.access"):
        async with served(InMemoryLightningStore()) as server, Raw(server.endpoint) as raw:
            for path in (f"/x{forged}", f"/get_rollout_by_id/{forged}", f"/dashboard/{forged}", f"/{key}"):
                await raw.send("GET", path)

    assert len(caplog.messages) == 4
    assert key not in caplog.text
    assert all(message.isprintable() and message.isascii() for message in caplog.messages)
    assert all(len(message) < 2_000 for message in caplog.messages)


async def connect(server: LightningStoreServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(server.endpoint)
    return await asyncio.open_connection(url.hostname, url.port)


def connections(server: LightningStoreServer) -> int:
    """The number of connections that the server has open."""
    opened = psutil.Process().net_connections("tcp")
    return sum(each.laddr[1:] == (server.port,) and each.status == psutil.CONN_ESTABLISHED for each in opened)
