"""LightningStoreClient: the contract, remote.

Every call may be repeated: mutations carry an idempotency key, so that one whose answer was lost has still happened
once. Calls made at the same time travel together. While the store is away the client waits and tries again, and says
so in one line; when it is back, in another.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from io import BytesIO
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from ...attempt_tokens import attempt_token, secret_of
from ...errors import AgentLightningError, InvalidInput, StoreUnavailable
from ...types import PaginatedResult
from .. import lifecycle
from ..contract import AnyRollout, Capabilities, LightningStore, Route, forwarding
from ..operations import IDEMPOTENCY_KEY, JSON, LONGEST_WAIT, Arguments, Operation, Request, from_problem, table
from . import batch
from .batching import Carried, Carrier, Outgoing

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://localhost:4747"

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
TRIES_OF_A_BROKEN_CALL = 3
"""How often a call is made that the store answers with 500, before it is raised."""
ANSWER_SECONDS = 60.0
CONNECT_SECONDS = 10.0
LARGE_BODY = 2**20

_AWAY = frozenset({429, 502, 503, 504})


def _remote(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    operation = table()[route.name]

    async def call(self: LightningStoreClient, *args: Any, **kwargs: Any) -> Any:
        ask = self._ask_for_pages if operation.lists else self._ask  # pyright: ignore[reportPrivateUsage]
        return await ask(operation, operation.bind(args, kwargs))

    return call


@forwarding(_remote)
class _RemoteStore(LightningStore):
    """Every operation of the contract, as one call over HTTP."""


class LightningStoreClient(_RemoteStore):
    """A store that is served at `url`; may be used from several event loops and threads at once.

    Without `url` it is AGL_STORE_URL, else http://localhost:4747; without `token`, AGL_TOKEN. With `give_up_after`, a
    call to a store that stays away raises `StoreUnavailable` after so many seconds; without, it waits as long as it
    takes. Can be pickled and copied into child processes.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, give_up_after: float | None = None) -> None:
        url = url or os.environ.get("AGL_STORE_URL") or DEFAULT_URL
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"a store's URL starts with http:// or https://, not {url!r}", field="url")
        self.url = url.rstrip("/")
        self._token = token or os.environ.get("AGL_TOKEN")
        self._give_up_after = give_up_after
        self._connections = _Connections(self._token)
        self._presence = _Presence(self.url)
        self._carriers: WeakKeyDictionary[asyncio.AbstractEventLoop, Carrier] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"LightningStoreClient({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _connect, (self.url, self._token, self._give_up_after)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=True)

    @property
    def is_away(self) -> bool:
        return self._presence.is_away

    def otlp_traces_endpoint(self) -> str | None:
        return f"{self.url}/v1/traces"

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str | None:
        """A token with which an agent can add spans to this attempt and do nothing else; None at an open store."""
        return attempt_token(secret_of(self._token), rollout_id, attempt_id) if self._token else None

    async def close(self) -> None:
        """Close the connections of this event loop; those of others close when their loops do."""
        await self._connections.close()

    # Long waits are cut into polls; each poll is a call of its own

    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> Any:
        return await self._poll(
            wait, lambda seconds: _RemoteStore.dequeue_rollout(self, worker_id=worker_id, wait=seconds)
        )

    async def dequeue_many_rollouts(self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0) -> Any:
        return await self._poll(
            wait,
            lambda seconds: _RemoteStore.dequeue_many_rollouts(self, limit=limit, worker_id=worker_id, wait=seconds),
        )

    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        wanted = list(dict.fromkeys(rollout_ids))
        finished: dict[str, AnyRollout] = {}

        async def ask(seconds: float) -> bool:
            left = [rollout_id for rollout_id in wanted if rollout_id not in finished]
            for rollout in await _RemoteStore.wait_for_rollouts(self, left, seconds):
                assert rollout.status in lifecycle.FINAL
                finished[rollout.rollout_id] = rollout
            return len(finished) == len(wanted)

        await self._poll(timeout, ask)
        return [finished[rollout_id] for rollout_id in wanted if rollout_id in finished]

    async def _poll(self, wait: float | None, ask: Callable[[float], Awaitable[Any]]) -> Any:
        """Ask until there is something or `wait` seconds have passed, at most `LONGEST_WAIT` at a time."""
        if wait is not None and not math.isfinite(wait):
            raise InvalidInput(f"cannot wait for {wait} seconds; None waits without end", field="wait, timeout")
        deadline = None if wait is None else time.monotonic() + wait
        while True:
            left = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            answer = await ask(max(0.0, min(left, LONGEST_WAIT)))
            if answer or (deadline is not None and deadline <= time.monotonic()):
                return answer

    # Lists come in pages

    async def _ask_for_pages(self, operation: Operation, arguments: Arguments) -> PaginatedResult[Any]:
        """All that was asked for, in as many pages as the server makes of it.

        What comes or goes meanwhile shifts nothing: each page begins behind the one before.
        """
        limit, offset = arguments.get("limit", -1), arguments.get("offset", 0)
        page: PaginatedResult[Any] = await self._ask(operation, arguments)
        items = list(page.items)
        while page.cursor is not None and len(items) != limit:
            rest = {"cursor": page.cursor, "offset": 0, "limit": -1 if limit < 0 else limit - len(items)}
            page = await self._ask(operation, {**arguments, **rest})
            items += page.items
        return page.model_copy(update={"items": items, "limit": limit, "offset": offset})

    # One call

    async def _ask(self, operation: Operation, arguments: Arguments) -> Any:
        key = _fresh_key() if operation.route.mutates else None
        outgoing = Outgoing(operation, arguments, operation.request(arguments), key)
        alone = _waits(arguments) > 0 or not operation.route.brief
        started = time.monotonic()
        for tries in count():
            answered = await (self._alone(outgoing) if alone else self._carrier().carry(outgoing))
            if isinstance(answered, StoreUnavailable):
                await self._pause(tries, answered, started)
                continue
            status, text = answered
            if status == 200:
                return operation.decode(text, arguments)
            error = from_problem(status, text)
            if status < 500 or tries + 1 >= TRIES_OF_A_BROKEN_CALL:
                raise error
            await asyncio.sleep(_pause(tries))
        raise AssertionError("counting never ends")

    def _carrier(self) -> Carrier:
        loop = asyncio.get_running_loop()
        carrier = self._carriers.get(loop)
        if carrier is None:
            carrier = self._carriers[loop] = Carrier(self._alone, self._together)
        return carrier

    async def _alone(self, outgoing: Outgoing) -> Carried:
        headers = {} if outgoing.idempotency_key is None else {IDEMPOTENCY_KEY: outgoing.idempotency_key}
        patience = _waits(outgoing.arguments) + ANSWER_SECONDS
        return await self._try(outgoing.operation.route.method, outgoing.request, headers, patience)

    async def _together(self, group: Sequence[Outgoing]) -> Sequence[Carried]:
        request = Request(batch.PATH, {}, batch.encode_calls([outgoing.call() for outgoing in group]))
        answered = await self._try("POST", request, {}, ANSWER_SECONDS)
        if isinstance(answered, StoreUnavailable):
            return [answered] * len(group)
        status, text = answered
        if status != 200:  # what is refused as a whole may pass one by one
            return await asyncio.gather(*(self._alone(outgoing) for outgoing in group))
        return [_carried(*answer) for answer in batch.answers_in(text)]

    async def _try(self, method: str, request: Request, headers: dict[str, str], patience: float) -> Carried:
        """Status and body of the answer, or why there is none yet."""
        session = await self._connections.session()
        if request.body is not None:
            headers["Content-Type"] = JSON
        try:
            async with session.request(
                method,
                URL(self.url + request.path, encoded=True).with_query(request.query),
                data=_sendable(request.body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience, sock_connect=CONNECT_SECONDS),
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return StoreUnavailable(str(error) or type(error).__name__)
        carried = _carried(response.status, text)
        if not isinstance(carried, StoreUnavailable):
            self._presence.seen()
        return carried

    async def _pause(self, tries: int, why: StoreUnavailable, started: float) -> None:
        if self._give_up_after is not None and time.monotonic() - started > self._give_up_after:
            raise StoreUnavailable(
                f"the store at {self.url} has been away for {self._give_up_after:g} s: {why}"
            ) from why
        if tries > 0:  # a connection that was just closed is no news
            self._presence.missed(why)
        await asyncio.sleep(_pause(tries))


def _carried(status: int, text: bytes) -> Carried:
    if status == 408 and not text:  # the headers came too late: this side was held up, the call has not begun
        return StoreUnavailable("the request's headers took too long")
    if status not in _AWAY:
        return status, text
    error = from_problem(status, text)
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))


def _connect(url: str, token: str | None, give_up_after: float | None) -> LightningStoreClient:
    return LightningStoreClient(url, token=token, give_up_after=give_up_after)


class _Connections:
    """An aiohttp session for each event loop, closed with its loop."""

    def __init__(self, token: str | None) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._sessions: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[AsyncGenerator[aiohttp.ClientSession], aiohttp.ClientSession]
        ] = WeakKeyDictionary()

    async def session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        known = self._sessions.get(loop)
        if known is None or known[1].closed:
            life = self._session_life()
            known = self._sessions[loop] = (life, await anext(life))
        return known[1]

    async def close(self) -> None:
        known = self._sessions.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known[0].aclose()

    async def _session_life(self) -> AsyncGenerator[aiohttp.ClientSession]:
        # A generator, because loops finish theirs as they shut down: a program that never calls close() still closes
        # its connections. No limit on connections: each waiting runner holds one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        session = aiohttp.ClientSession(connector=connector, headers=self._headers, auto_decompress=True)
        try:
            yield session
        finally:
            await session.close()


class _Presence:
    """Says once that the store is away, and once that it is back, however many calls notice."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Protects the flag from calls in several threads, so that each line is said once.
        self._lock = threading.Lock()
        self._away_since: float | None = None

    @property
    def is_away(self) -> bool:
        return self._away_since is not None

    def missed(self, why: AgentLightningError) -> None:
        with self._lock:
            first, self._away_since = self._away_since is None, self._away_since or time.monotonic()
        if first:
            logger.warning("The store at %s is away (%s); trying again until it is back.", self._url, why)

    def seen(self) -> None:
        if self._away_since is None:  # looked at without the lock: this is every call's path
            return
        with self._lock:
            since = self._away_since
            self._away_since = None
        if since:  # another thread may have said it meanwhile
            logger.warning("The store at %s is back after %.1f s.", self._url, time.monotonic() - since)


def _sendable(body: bytes | None) -> bytes | BytesIO | None:
    """Large bodies go in pieces, so that the event loop is not held up by one."""
    return body if body is None or len(body) <= LARGE_BODY else BytesIO(body)


def _fresh_key() -> str:
    # Beginning with the time, so that the store's index of keys grows at its end.
    return f"{time.time_ns():x}{os.urandom(8).hex()}"


def _waits(arguments: Arguments) -> float:
    return float(arguments.get("wait") or arguments.get("timeout") or 0.0)


def _pause(tries: int) -> float:
    """Twice as long each time, and never the same for two callers."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)
