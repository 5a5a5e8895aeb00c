"""A TCP proxy in front of a store that loses, truncates and duplicates messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["lost answer", "half an answer", "refused", "lost request", "half a request", "twice", "503", "502"]

SERVICE_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 20\r\nConnection: close\r\n\r\n"
    b"<h1>Bad Gateway</h1>"
)


class FaultyProxy:
    """Forwards requests and responses, but applies `fault` to the first `times` requests.

    A connection is closed after one request, so that a fault affects one call only.
    """

    def __init__(self, endpoint: str, fault: Fault, times: int = 1) -> None:
        url = urlsplit(endpoint)
        assert url.hostname
        assert url.port
        self._upstream = (url.hostname, url.port)
        self._fault: Fault = fault
        self.faults_left = times

    async def __aenter__(self) -> FaultyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        response: bytes | None = None
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _read_message(reader)
                self.faults_left -= 1
                response = await self._respond(self._fault if self.faults_left >= 0 else None, request)
                writer.write(response or b"")
                await writer.drain()
        finally:
            writer.close() if response else writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _respond(self, fault: Fault | None, request: bytes) -> bytes | None:
        match fault:
            case None:
                return await self._forward(request)
            case "refused" | "lost request":
                return None
            case "lost answer":
                await self._forward(request)
                return None
            case "half an answer":
                response = await self._forward(request)
                return response[: len(response) - 5]
            case "half a request":
                await self._send(request[: len(request) - 5], _read_nothing)
                return None
            case "twice":
                first, _ = await asyncio.gather(self._forward(request), self._forward(request))
                return first
            case "503":
                return SERVICE_UNAVAILABLE
            case "502":
                return BAD_GATEWAY

    async def _forward(self, request: bytes) -> bytes:
        return await self._send(request, _read_message)

    async def _send(self, request: bytes, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            # The response announces that the connection is closed after it.
            return (await read(reader)).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one complete HTTP request or response."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return head + await reader.readexactly(int(value))
        if name == b"transfer-encoding":
            return head + await _read_chunks(reader)
    return head


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        body += size + await reader.readexactly(int(size, 16) + 2)
        if int(size, 16) == 0:
            return body


async def _read_nothing(_: asyncio.StreamReader) -> bytes:
    return b""
