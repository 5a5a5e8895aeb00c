"""uvicorn's HTTP protocol with limits on headers, chunk framing, pipelining, slow clients and open connections."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterable
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .limits import Limits

logger = logging.getLogger(__name__)

RESERVED_DESCRIPTORS: Final = 16
"""Number of file descriptors reserved for the database, log files and outgoing connections."""
_FRAMING_PER_BODY_BYTE: Final = 8
"""Maximum number of received bytes per byte of a body. A chunk that contains a single byte is sent as six bytes."""


class _Refusal(Exception):
    """The protocol itself refuses the request, with the HTTP status `status`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class LimitedProtocol(HttpToolsProtocol):
    """Refuses requests that exceed a limit or are not valid HTTP, and closes their connections.

    It also disconnects clients that do not read their responses. When the process has almost no file descriptors left,
    it closes the connections that have been idle for the longest time.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = logger  # programs configure this package's loggers, but not uvicorn's
        self._limits = limits
        self._chunk = 0
        """Number of bytes in the data that was received last."""
        self._unclaimed = 0
        """Number of bytes of this data that may belong to a request that has not begun yet."""
        self._received = 0
        """Number of bytes received for the current request.

        This is an estimate: the bytes of data that also contains the end of an earlier request may all be counted.
        """
        self._body = 0
        """Number of bytes received for the current request's body, without chunk framing."""
        self._is_in_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    @property
    def idle_since(self) -> float | None:
        """Time at which the connection became idle, on the event loop's clock, or None if the connection is not idle.

        A connection is idle while the server waits for a request or for the rest of a request's headers.
        """
        if self.transport.is_closing():
            return None
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when() - self.timeout_keep_alive
        return None if self._head_timer is None else self._head_timer.when() - self._limits.head_seconds

    # Connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_head_timer()
        # The system assigns the lowest free number, so at least this many file descriptors are in use.
        used: int = transport.get_extra_info("socket").fileno()
        if used >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS:
            self._make_room(cast("Iterable[LimitedProtocol]", self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def _make_room(self, connections: Iterable[LimitedProtocol]) -> None:
        others = [(since, each) for each in connections if each is not self and (since := each.idle_since) is not None]
        others.sort(key=lambda entry: entry[0])
        for _, idle in others[: len(others) // 8 + 1]:  # several, so that not every new connection needs a search
            idle.transport.close()
        if not others:
            message = "the server has no file descriptors left for connections; raise its limit (ulimit -n)"
            self._refuse(_Refusal("503 Service Unavailable", message))

    # Data from the client

    def data_received(self, data: bytes) -> None:
        self._chunk = self._unclaimed = len(data)
        self._received += len(data)
        try:
            cast("Any", self.parser).feed_data(data)
            self._check_framing()
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, MemoryError):
                cause = _Refusal("503 Service Unavailable", "the server is out of memory; try again")
            self._refuse(cause if isinstance(cause, _Refusal) else _Refusal("400 Bad Request", _describe(error)))
        except _Refusal as refusal:
            self._refuse(refusal)
        else:
            if self._is_in_head:
                self._start_head_timer()

    def on_message_begin(self) -> None:
        # Only a new request stops the keep-alive timer. Line breaks between requests, and the rest of the body of a
        # request that was refused, do not.
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._received, self._unclaimed, self._body = self._unclaimed, 0, 0
        self._is_in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # Headers are counted as they are parsed, so that refusing too many of them costs little. The parser also calls
        # this method for the trailers of a chunked body.
        if len(self.headers) >= (limit := self._limits.header_count):
            message = f"the request has more than {limit} headers; send fewer, or raise the limit"
            raise _Refusal(
                "431 Request Header Fields Too Large", f"{message} (Limits.header_count; for a store, --max-headers)"
            )
        # The rest is a copy of uvicorn's method, because calling it would double the cost of a header.
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        limits = self._limits
        # `_received` may lack bytes of the last data, but `_received + _chunk` is an upper bound. If it is within the
        # limit, the exact size need not be computed.
        if self._received + self._chunk > limits.head and _head_size(self.url, self.headers) > limits.head:
            raise self._head_too_large()
        if len(self.pipeline) >= limits.pipelined:
            message = f"the connection has more than {limits.pipelined} pipelined requests; wait for their responses, "
            raise _Refusal(
                "429 Too Many Requests",
                f"{message}or raise the limit (Limits.pipelined; for a store, --max-pipelined)",
            )
        self._is_in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._unclaimed = 0
        super().on_body(body)

    def _check_framing(self) -> None:
        """Raise `_Refusal` if the head, or the chunk sizes, chunk extensions and trailers of the body, are too long."""
        if self._received > self._limits.head + self._body * _FRAMING_PER_BODY_BYTE:
            raise self._head_too_large()

    def _head_too_large(self) -> _Refusal:
        message = f"the request line, headers and chunk framing exceed {self._limits.head} bytes; shorten them, "
        return _Refusal(
            "431 Request Header Fields Too Large", f"{message}or raise the limit (Limits.head; for a store, --max-head)"
        )

    def _ignore_upgrade(self) -> None:
        """Execute an upgrade request like any other request, and then close the connection.

        The parser cannot continue, because it treats the data after the headers as another protocol.
        """
        self.cycle.keep_alive = False
        if any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers):
            # The parser does not read the request's body, so the request must not be executed.
            self.cycle.disconnected = self.cycle.more_body = True
            self._refuse(_Refusal("400 Bad Request", "a request with a body cannot request an upgrade"))

    # Refusals

    def _refuse(self, refusal: _Refusal) -> None:
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        logger.info("Refused a request from %s:%s: %s: %s", *(self.client or ("-", 0)), refusal.status, refusal)
        if self._can_answer():
            body = f"{refusal}\n".encode()
            head = (
                f"HTTP/1.1 {refusal.status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}"
            )
            self.transport.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _can_answer(self) -> bool:
        """Return True if the refusal can be sent as the response to the refused request.

        It cannot be sent while earlier requests are in progress, or after that response has started.
        """
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or self._is_in_head or not cycle.more_body:  # the cycle, if any, is an earlier request's
            return cycle is None or cycle.response_complete
        return not (cycle.response_started or self.pipeline)

    # Timers

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._refuse_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_slow_head(self) -> None:
        message = f"the headers did not arrive within {self._limits.head_seconds:g} s; send them faster, or raise the "
        self._refuse(
            _Refusal("408 Request Timeout", f"{message}limit (Limits.head_seconds; for a store, --head-seconds)")
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()
        self._limit_unsent(cast("Iterable[LimitedProtocol]", self.connections))

    def resume_writing(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def _expect_progress(self) -> None:
        """Disconnect the client if it reads nothing for `Limits.send_seconds`."""
        unsent = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.get_write_buffer_size() < unsent:
                self._expect_progress()
            else:
                self._disconnect()

        self._send_timer = self.loop.call_later(self._limits.send_seconds, check)

    def _limit_unsent(self, connections: Iterable[LimitedProtocol]) -> None:
        """While too much data is unsent, disconnect the clients that have read nothing for the longest time."""
        waiting = [(each._send_timer.when(), each) for each in connections if each._send_timer is not None]
        unsent = sum(each.transport.get_write_buffer_size() for _, each in waiting)
        for _, each in sorted(waiting, key=lambda entry: entry[0]):
            if unsent <= self._limits.unsent:
                break
            unsent -= each.transport.get_write_buffer_size()
            each._disconnect()

    def _disconnect(self) -> None:
        logger.info("Disconnected %s:%s, because this client did not read its response", *(self.client or ("-", 0)))
        self.transport.abort()


def _head_size(url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def _describe(error: httptools.HttpParserError) -> str:
    is_callback = isinstance(error, httptools.HttpParserCallbackError)
    return f"the request is not valid HTTP: {'invalid URL' if is_callback else error}"
