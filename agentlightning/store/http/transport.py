"""The client's HTTP transport: connections, batches of concurrent calls, and the connection state.

If fewer than `MAX_IN_FLIGHT` requests are in flight, a call is sent in the next iteration of the event loop. Otherwise,
calls are queued until one of those requests has returned or has taken longer than `SLOW_REQUEST_SECONDS`. The queued
calls are then sent as a batch. No timer delays a call to make a batch larger. A call that cannot be part of a batch is
sent alone, without being queued.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from yarl import URL

from ... import payload
from ...errors import AgentLightningError, StoreUnavailable
from ..operations import Arguments, Operation, error_from_problem
from .messages import (
    BATCH_PATH,
    CLIENT_HEADER,
    IDEMPOTENCY_KEY,
    JSON,
    MAX_BATCH_SIZE,
    Batch,
    BatchAnswers,
    BatchCall,
    Response,
)
from .versions import VERSION_HEADER, own_version

logger = logging.getLogger(__name__)

RESPONSE_TIMEOUT: Final = 60.0
CONNECT_TIMEOUT: Final = 10.0
STREAMED_BODY_SIZE: Final = 2**20
"""Size in bytes above which a body is sent in chunks, so that sending it does not block the event loop."""

MAX_IN_FLIGHT: Final = 2
"""Maximum number of requests in flight per event loop, not counting slow requests and calls that cannot be batched.

While the store processes one request, the client can prepare the other.
"""
MAX_BATCH_BYTES: Final = 2**20
"""Maximum total size, in bytes, of the calls' bodies in one batch. A call with a larger body is sent alone."""
SLOW_REQUEST_SECONDS: Final = 0.25
"""Seconds after which a request in flight no longer counts towards `MAX_IN_FLIGHT`."""

_answers = msgspec.json.Decoder(BatchAnswers)
_UNAVAILABLE = frozenset({429, 502, 503, 504})

Outcome = Response | StoreUnavailable
"""The response to a call, or an error if the store is unreachable or busy."""


@dataclass(slots=True)
class StoreCall:
    """One call to the store. Retries reuse the same object and therefore have the same idempotency key."""

    operation: Operation
    arguments: Arguments
    path: str
    query: dict[str, str]
    body: bytes | None
    idempotency_key: str | None
    wait: float
    """Maximum time, in seconds, that the store may wait for a result before it responds."""

    def for_batch(self) -> BatchCall:
        """Return the call in the form used in a batch."""
        body = payload.dumps_fields(self.arguments) if self.body is None else self.body
        return BatchCall(self.operation.name, msgspec.Raw(body), self.idempotency_key)


class Transport:
    """Sends calls to the store at `url`. May be used from several event loops and threads concurrently."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {CLIENT_HEADER: "1"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._sessions: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[AsyncGenerator[aiohttp.ClientSession], aiohttp.ClientSession]
        ] = WeakKeyDictionary()
        self._batchers: WeakKeyDictionary[asyncio.AbstractEventLoop, RequestBatcher] = WeakKeyDictionary()
        # Protects `_unreachable_since` from concurrent access by several threads. Without the lock, two threads could
        # log the same change of state.
        self._lock = threading.Lock()
        self.store_version: str | None = None
        """The version that the store named in its last response, or None if it named none."""
        self._unreachable_since: float | None = None

    async def send(self, call: StoreCall) -> Outcome:
        """Send a call alone or in a batch, and return the outcome. Retries are left to the caller."""
        if call.wait > 0 or not call.operation.batchable:
            return await self._send_alone(call)
        loop = asyncio.get_running_loop()
        batcher = self._batchers.get(loop)
        if batcher is None:
            batcher = self._batchers[loop] = RequestBatcher(self._send_alone, self._send_batch)
        return await batcher.send(call)

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        known = self._sessions.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known[0].aclose()

    async def _send_alone(self, call: StoreCall) -> Outcome:
        headers = {} if call.idempotency_key is None else {IDEMPOTENCY_KEY: call.idempotency_key}
        url = URL(self._url + call.path, encoded=True).with_query(call.query)
        return await self._request(call.operation.route.method, url, call.body, headers, call.wait + RESPONSE_TIMEOUT)

    async def _send_batch(self, calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        body = msgspec.json.encode(Batch([call.for_batch() for call in calls]))
        outcome = await self._request("POST", URL(self._url + BATCH_PATH), body, {}, RESPONSE_TIMEOUT)
        if isinstance(outcome, StoreUnavailable):
            return [outcome] * len(calls)
        status, text = outcome
        if status != 200:  # the whole batch was rejected, but individual calls may still be accepted
            return await asyncio.gather(*(self._send_alone(call) for call in calls))
        return [_outcome(each.status, bytes(each.body)) for each in _answers.decode(text).answers]

    async def _request(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str], timeout: float
    ) -> Outcome:
        session = await self._session()
        data = body if body is None or len(body) <= STREAMED_BODY_SIZE else BytesIO(body)
        if body is not None:
            headers["Content-Type"] = JSON
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        try:
            async with session.request(method, url, data=data, headers=headers, timeout=limits) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return StoreUnavailable(str(error) or type(error).__name__)
        self.store_version = response.headers.get(VERSION_HEADER)
        outcome = _outcome(response.status, text)
        if not isinstance(outcome, StoreUnavailable):
            self._note_success()
        return outcome

    async def _session(self) -> aiohttp.ClientSession:
        """Return the session for the running event loop. It is closed when that loop shuts down."""
        loop = asyncio.get_running_loop()
        known = self._sessions.get(loop)
        if known is None or known[1].closed:
            lifetime = self._open_session()
            known = self._sessions[loop] = (lifetime, await anext(lifetime))
        return known[1]

    async def _open_session(self) -> AsyncGenerator[aiohttp.ClientSession]:
        # This is a generator, because an event loop closes its async generators on shutdown. The connections are
        # therefore closed even if the program never calls close(). The number of connections is unlimited (`limit=0`),
        # because each waiting runner occupies one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        headers = self._headers | {VERSION_HEADER: own_version()}
        session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=True)
        try:
            yield session
        finally:
            await session.close()

    # Connection state

    @property
    def is_unreachable(self) -> bool:
        """True from the first recorded failure until the next response."""
        return self._unreachable_since is not None

    def note_failure(self, reason: AgentLightningError) -> None:
        """Record that the store is unreachable. Only the first failure since the last response is logged."""
        with self._lock:
            is_first = self._unreachable_since is None
            self._unreachable_since = self._unreachable_since or time.monotonic()
        if is_first:
            logger.warning("The store at %s is unreachable (%s); retrying until it responds.", self._url, reason)

    def _note_success(self) -> None:
        if self._unreachable_since is None:  # read without the lock, because this runs after every response
            return
        with self._lock:
            since, self._unreachable_since = self._unreachable_since, None
        if since:  # otherwise, another thread has just logged the recovery
            logger.warning("The store at %s is responding again after %.1f s.", self._url, time.monotonic() - since)


def _outcome(status: int, text: bytes) -> Outcome:
    if status == 408 and not text.startswith(b"{"):
        # This process sent the headers too slowly, so the call was not executed. Other 408s have a JSON body.
        return StoreUnavailable("the request's headers were sent too slowly")
    if status not in _UNAVAILABLE:
        return status, text
    error = error_from_problem(status, text)
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))


_PendingCall = tuple[StoreCall, asyncio.Future[Outcome]]


class RequestBatcher:
    """Sends the calls made in one event loop, either individually or in batches."""

    def __init__(
        self,
        send_alone: Callable[[StoreCall], Awaitable[Outcome]],
        send_batch: Callable[[Sequence[StoreCall]], Awaitable[Sequence[Outcome]]],
    ) -> None:
        self._send_alone = send_alone
        self._send_batch = send_batch
        self._pending: deque[_PendingCall] = deque()
        self._requests = set[asyncio.Task[None]]()
        self._in_flight = set[asyncio.Task[None]]()
        """The requests that count towards `MAX_IN_FLIGHT`."""
        self._is_scheduled = False

    async def send(self, call: StoreCall) -> Outcome:
        """Queue a call to be sent alone or in a batch, and return its outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append((call, future))
        self._schedule()
        return await future

    def _schedule(self) -> None:
        # Send in the next iteration of the event loop. Callers woken by the same response all make their next calls in
        # the current iteration, and those calls can then share a batch.
        if not self._is_scheduled and self._pending and len(self._in_flight) < MAX_IN_FLIGHT:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_pending)

    def _send_pending(self) -> None:
        self._is_scheduled = False
        loop = asyncio.get_running_loop()
        while len(self._in_flight) < MAX_IN_FLIGHT and (group := self._next_group()):
            request = loop.create_task(self._send(group))
            self._requests.add(request)
            self._in_flight.add(request)
            timer = loop.call_later(SLOW_REQUEST_SECONDS, self._stop_holding_back, request)
            request.add_done_callback(lambda request, timer=timer: self._finish(request, timer))

    def _next_group(self) -> list[_PendingCall]:
        group: list[_PendingCall] = []
        size = 0
        while self._pending and len(group) < MAX_BATCH_SIZE:
            call, future = self._pending[0]
            size += len(call.body or b"")
            if group and size > MAX_BATCH_BYTES:
                break
            self._pending.popleft()
            if not future.done():  # otherwise, the caller has been cancelled
                group.append((call, future))
        return group

    async def _send(self, group: list[_PendingCall]) -> None:
        calls = [call for call, _ in group]
        futures = [future for _, future in group]
        try:
            outcomes = [await self._send_alone(calls[0])] if len(calls) == 1 else await self._send_batch(calls)
            for future, outcome in zip(futures, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
        except Exception as error:
            _fail(futures, error)
        except asyncio.CancelledError:
            _fail(futures, StoreUnavailable("the call was cancelled"))
            raise

    def _finish(self, request: asyncio.Task[None], timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._requests.discard(request)
        self._stop_holding_back(request)

    def _stop_holding_back(self, request: asyncio.Task[None]) -> None:
        self._in_flight.discard(request)
        self._schedule()


def _fail(futures: Sequence[asyncio.Future[Outcome]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
