"""A TCP proxy in front of a store that loses, cuts and doubles what passes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["lost answer", "half an answer", "refused", "lost request", "half a request", "twice", "503", "502"]

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 20\r\nConnection: close\r\n\r\n"
    b"<h1>Bad Gateway</h1>"
)


class Proxy:
    """Passes each request on and its answer back, except for the first `times`, which meet with `fault`.

    One request a connection: it closes after each answer, so that a fault hits one call and no other.
    """

    def __init__(self, endpoint: str, fault: Fault, times: int = 1) -> None:
        where = urlsplit(endpoint)
        assert where.hostname
        assert where.port
        self._upstream = (where.hostname, where.port)
        self.fault: Fault = fault
        self.left = times
        self.requests = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer: bytes | None = None
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _message(reader)
                self.requests += 1
                self.left -= 1
                answer = await self._meet(self.fault if self.left >= 0 else None, request)
                writer.write(answer or b"")
                await writer.drain()
        finally:
            writer.close() if answer else writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _meet(self, fault: Fault | None, request: bytes) -> bytes | None:
        match fault:
            case None:
                return await self._pass_on(request)
            case "refused" | "lost request":
                return None
            case "lost answer":
                await self._pass_on(request)
                return None
            case "half an answer":
                answer = await self._pass_on(request)
                return answer[: len(answer) - 5]
            case "half a request":
                await self._send(request[: len(request) - 5], _nothing)
                return None
            case "twice":
                first, _ = await asyncio.gather(self._pass_on(request), self._pass_on(request))
                return first
            case "503":
                return BUSY
            case "502":
                return GATEWAY

    async def _pass_on(self, request: bytes) -> bytes:
        return await self._send(request, _message)

    async def _send(self, request: bytes, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            return _closing(await read(reader))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP request or answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return head + await reader.readexactly(int(value))
        if name == b"transfer-encoding":
            return head + await _chunks(reader)
    return head


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        body += size + await reader.readexactly(int(size, 16) + 2)
        if int(size, 16) == 0:
            return body


async def _nothing(_: asyncio.StreamReader) -> bytes:
    return b""


def _closing(answer: bytes) -> bytes:
    return answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) if answer else answer
