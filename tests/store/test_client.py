"""LightningStoreClient against a store that does not respond."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import LightningStoreClient

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def busy_server(requests: list[bytes], answer: bytes = BUSY) -> AsyncIterator[str]:
    """A server that answers every request with 503, or with `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            requests.append(head)
            writer.write(answer)

    async def serve_until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve_until_closed, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def test_client_backs_off_between_tries() -> None:
    requests: list[bytes] = []
    async with busy_server(requests) as url, LightningStoreClient(url, give_up_after=0.5) as client:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(client.get_rollout_by_id("ro-1"), 15)

    # Delays of at least 25, 50, 100, 200 ms: five tries in half a second, and one more after it.
    assert 2 <= len(requests) <= 7


async def test_client_repeats_a_call_whose_headers_were_too_slow() -> None:
    text = b"The request's headers were sent too slowly"
    answer = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    requests: list[bytes] = []
    async with busy_server(requests, answer) as url, LightningStoreClient(url, give_up_after=0.2) as client:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(client.get_rollout_by_id("ro-1"), 15)

    assert len(requests) >= 2


async def test_client_gives_up_after_the_given_time_and_names_the_store(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    async with LightningStoreClient(url, give_up_after=0.3) as client:
        with caplog.at_level(logging.WARNING), pytest.raises(StoreUnavailable) as raised:
            await asyncio.wait_for(client.enqueue_rollout("task"), 15)

        assert str(raised.value).startswith(f"the store at {url} has been unreachable for 0.3 s: ")
        assert client.is_unreachable
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        f"The store at {url} is unreachable"
    ]


async def test_waiting_claim_gives_up_too() -> None:
    async with LightningStoreClient(f"http://127.0.0.1:{closed_port()}", give_up_after=0.2) as client:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(client.dequeue_rollout("worker", wait=60), 15)
