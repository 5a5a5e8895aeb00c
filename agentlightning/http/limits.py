"""Limits of an HTTP server: admission control, body sizes, and handling of slow or disconnected clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope

from ..errors import StoreBusy, TooLarge, TooSlow
from ..payload import MAX_DEPTH, MAX_ITEMS, MAX_VALUES

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits for a store server (`LightningStoreServer(store, limits=…)`) or an LLM proxy (`LLMProxy(limits=…)`)."""

    body: int = 16 * _MIB
    """Maximum size of a request body in bytes."""
    unpacked: int = 20 * _MIB
    """Maximum size of a request body in bytes after decompression."""
    bodies: int = 256 * _MIB
    """Maximum total size of the bodies of all requests in progress, in bytes.

    Further requests get status 429 with a Retry-After header. The LLM proxy also counts the parts of responses that it
    keeps in memory until a call ends."""
    requests: int = 4_096
    """Maximum number of requests in progress, not counting long polls.

    Further requests get status 429 with a Retry-After header."""
    head: int = 64 * 1024
    """Maximum total size of the request line and headers in bytes."""
    depth: int = MAX_DEPTH
    """Maximum nesting depth of the JSON in a request body. It cannot be raised above the default."""
    page: int = 1_000
    """Maximum number of items on a page of a list, even if the request asks for more."""
    head_seconds: float = 10.0
    """Time limit in seconds for receiving the headers of a request.

    It is measured from the start of the connection or, for later requests, from the first byte of the request."""
    body_seconds: float = 60.0
    """Time limit in seconds for receiving the body of a request after the headers."""
    attempt_token_seconds: float = 24 * 3600.0
    """Time in seconds for which an attempt's token stays valid after the attempt has ended."""
    page_bytes: int = 8 * _MIB
    """Maximum total size in bytes of the items on a page of a list, as stored in the database.

    An item that exceeds the limit gets a page of its own. The limit also applies to the rollouts that one call to
    `dequeue_many_rollouts` claims, and to those in one response to `wait_for_rollouts`. Once the responses to the
    lookups in a batch exceed the limit, further lookups in the batch get status 429."""

    values: int = MAX_VALUES
    """Maximum number of values in a JSON body, in an OTLP request, or in one event of a model server's stream.

    In JSON, opening brackets, opening braces and commas are counted."""
    items: int = MAX_ITEMS
    """Maximum number of rollouts, spans or attempts in a list that one call passes to the store.

    Lists of ids in filters and in `wait_for_rollouts` can be longer."""
    spans: int = 10_000
    """Maximum number of spans in an OTLP request."""
    span_values: int = 20_000
    """Maximum number of attributes, events, links and nested values in one span or resource of an OTLP request."""

    header_count: int = 200
    """Maximum number of headers in a request, including the trailers of a chunked body."""
    pipelined: int = 100
    """Maximum number of requests on a connection that wait for an earlier request to finish."""
    listeners: int = 200
    """Maximum number of open event streams (`GET /events`).

    Further requests for an event stream get status 429 with a Retry-After header."""
    unsent: int = 256 * _MIB
    """Maximum total size in bytes of the response data that clients have not read yet.

    If it is exceeded, the clients that have read nothing for the longest time are disconnected."""
    send_seconds: float = 60.0
    """Time in seconds after which a client that has stopped reading its response is disconnected."""

    upstream_response: int = 64 * _MIB
    """LLM proxy: maximum size of a model server's response in bytes, after decompression."""
    upstream_event: int = 32 * _MIB
    """LLM proxy: maximum size of one event in a streamed response, in bytes."""
    upstream_events: int = 200_000
    """LLM proxy: maximum number of events in a streamed response."""
    upstream_seconds: float = 3_600.0
    """LLM proxy: maximum duration of a model call in seconds, including retries."""


class AdmissionControl:
    """Admits requests while the server is within its limits. Use it only in the server's event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        """Total size, in bytes, that is reserved for the bodies of all admitted requests."""
        self.requests = 0
        self.refused = 0

    async def admit(self, scope: Scope, receive: Receive) -> Permit:
        """Admit a request and receive its body. Raises `StoreBusy`, `TooLarge` or `TooSlow`."""
        expected = min(_expected_length(scope), self.limits.body)  # read_body rejects larger bodies
        if self.requests >= self.limits.requests or self.bytes + expected > self.limits.bodies:
            self.refused += 1
            raise StoreBusy()
        permit = Permit(self, expected)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                permit.keep(await read_body(scope, receive, self.limits.body))
        except TimeoutError:
            permit.release()
            raise TooSlow(f"the body did not arrive within {self.limits.body_seconds:g} s", field="body") from None
        except BaseException:
            permit.release()
            raise
        return permit


class Permit:
    """The capacity reserved for an admitted request, and the request's body.

    When used in a `with` statement, it releases the capacity at the end of the block.
    """

    __slots__ = ("_control", "_size", "body")

    def __init__(self, control: AdmissionControl, size: int) -> None:
        self.body = b""
        self._control: AdmissionControl | None = control
        self._size = size
        control.bytes += size
        control.requests += 1

    def keep(self, body: bytes) -> None:
        """Set the body and count its actual size instead of the reserved size."""
        if self._control is not None:
            self._control.bytes += len(body) - self._size
        self.body, self._size = body, len(body)

    def reserve(self, size: int) -> None:
        """Reserve capacity for `size` more bytes, such as a part of a response. Raises `StoreBusy` at the limit."""
        if self._control is not None:
            if self._control.bytes + size > self._control.limits.bodies:
                self._control.refused += 1
                raise StoreBusy()
            self._control.bytes += size
            self._size += size

    def release(self) -> None:
        """Release the capacity. Can be called before the request ends, for example for a long poll. Idempotent."""
        if self._control is not None:
            self._control.bytes -= self._size
            self._control.requests -= 1
            self._control = None

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_UNKNOWN_LENGTH = _MIB
"""Number of bytes to reserve for the body of a request that does not declare its length."""


def _expected_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
        if name == b"transfer-encoding":
            return _UNKNOWN_LENGTH
    return 0


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the request's body. Raises `TooLarge` as soon as the body is known to exceed `limit` bytes.

    Raises ConnectionResetError if the client disconnects.
    """
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client disconnected")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    size = f"{limit >> 20} MiB" if limit >= _MIB else f"{limit >> 10} KiB"
    return TooLarge(f"the body is larger than {size}", field="body")


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the `async with` block when the client disconnects, and continue after the block.

    Any other cancellation of the task is propagated. If the block raises an exception after the client has
    disconnected, the exception is dropped, because there is no client left to report it to.
    """
    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(_wait_for_disconnect(receive))
    earlier_requests, is_inside, is_cancelled = task.cancelling(), True, False

    def cancel(watcher: asyncio.Task[None]) -> None:
        nonlocal is_cancelled
        if is_inside and not watcher.cancelled():  # the callback may run just after the end of the block
            is_cancelled = task.cancel()

    watcher.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not is_cancelled or task.cancelling() > earlier_requests + 1:  # the task was also cancelled by other code
            raise
    except Exception:
        if not watcher.done():
            raise
    finally:
        is_inside = False
        watcher.cancel()
        if is_cancelled:
            task.uncancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
