"""How much may arrive at once, and how slowly: what is beyond it is refused at the door, and nobody else notices."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import StoreBusy, TooSlow
from ..payload import MAX_DEPTH
from ..store.http.auth import MAX_BODY, read_body

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one store takes; `LightningStoreServer(store, limits=…)` changes it."""

    body: int = MAX_BODY
    """Bytes of one request's body."""
    unpacked: int = 20 * _MIB
    """Bytes of a request's body after decompression."""
    bodies: int = 256 * _MIB
    """Bytes of all bodies that are being read or worked on; beyond it 429 with Retry-After."""
    requests: int = 4_096
    """Requests being worked on, those that only wait left out; beyond it 429 with Retry-After."""
    head: int = 64 * 1024
    """Bytes of a request's line and headers."""
    depth: int = MAX_DEPTH
    """Levels of nesting in a body's JSON; no more than the default."""
    page: int = 1_000
    """Items in one page of a list. Who asks for more, or for all, gets a page, and asks for the next."""
    head_seconds: float = 10.0
    """From a connection's first moment, or a request's first byte, until its headers are complete."""
    body_seconds: float = 60.0
    """From the headers until the body is complete."""


class Gate:
    """Lets requests in while there is room for them. Lives in the server's event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.bytes = 0
        self.requests = 0
        self.refused = 0

    @property
    def limits(self) -> Limits:
        """What it goes by."""
        return self._limits

    async def enter(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body; call `leave` with its size when it is dealt with. Raises `StoreBusy` or `TooSlow`."""
        expected = _length(scope)
        if self.requests >= self._limits.requests or self.bytes + expected > self._limits.bodies:
            self.refused += 1
            raise StoreBusy()
        self._add(expected)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await read_body(scope, receive, self._limits.body)
        except TimeoutError:
            self.leave(expected)
            raise TooSlow(f"the body did not arrive within {self._limits.body_seconds:g} s", field="body") from None
        except BaseException:
            self.leave(expected)
            raise
        self.bytes += len(body) - expected
        return body

    def leave(self, size: int) -> None:
        """A request is answered, or only waits from now on."""
        self.bytes -= size
        self.requests -= 1

    def _add(self, size: int) -> None:
        self.bytes += size
        self.requests += 1


_UNKNOWN = _MIB
"""What is set aside for a body that does not say how long it is."""


def _length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
        if name == b"transfer-encoding":
            return _UNKNOWN
    return 0


def patient_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """How uvicorn speaks HTTP, with an end to its patience: slow and endless headers are cut off."""

    class Patient(_Patient):
        pass

    Patient.limits = limits
    return Patient


class _Patient(HttpToolsProtocol):
    limits = Limits()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = 0
        self._due: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._due is not None or self._in_head:
            self._head += len(data)
            self._wait()
            if self._head > self.limits.head:
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head = 0, True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    _in_head = False

    def _wait(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(self.limits.head_seconds, self._refuse, b"408 Request Timeout")

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _refuse(self, status: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
