"""LightningStoreClient: executes the operations of `LightningStore` over HTTP.

Every call can be retried safely. Each mutation has an idempotency key, so a mutation that is sent again because its
response was lost is still executed only once. While the store is unreachable, the client waits and retries. It logs one
line when the store becomes unreachable and another when the store responds again.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, cast
from urllib.parse import quote

from ... import payload
from ...attempt_tokens import attempt_token, derive_secret
from ...errors import AgentLightningError, InvalidInput, StoreUnavailable
from ...retry import RetryPolicy
from ...types import PaginatedResult
from ..contract import AnyRollout, Capabilities, LightningStore, Route, implement_operations
from ..operations import Arguments, Operation, error_from_problem, operation_table
from .transport import StoreCall, Transport
from .versions import name_versions

LONG_POLL_SECONDS: Final = 25.0
"""Maximum duration of a long poll in seconds.

Proxies and firewalls keep an idle connection open for at least 30 seconds, so they do not interrupt a long poll.
"""
DEFAULT_URL: Final = "http://localhost:4747"
RETRY: Final = RetryPolicy(first_delay=0.05, max_delay=2.0)
MAX_TRIES_ON_ERROR: Final = 3
"""Maximum number of times that a call is sent if it fails with an internal error in the store."""


def _remote(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    operation = operation_table()[route.name]

    async def call(self: LightningStoreClient, *args: Any, **kwargs: Any) -> Any:
        return await self._call(operation, operation.bind(args, kwargs))  # pyright: ignore[reportPrivateUsage]

    return call


@implement_operations(_remote)
class _RemoteStore(LightningStore):
    """Implements every operation of `LightningStore` as an HTTP request."""


class LightningStoreClient(_RemoteStore):
    """Client for the store at `url`. A client may be used from several event loops and threads concurrently.

    `url` defaults to the environment variable AGL_STORE_URL or, if that is not set, to http://localhost:4747. `token`
    defaults to AGL_TOKEN. If `give_up_after` is set, a call raises `StoreUnavailable` when the store has been
    unreachable for that many seconds. Otherwise, a call is retried until the store responds. Clients can be pickled and
    passed to child processes.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, give_up_after: float | None = None) -> None:
        url = url or os.environ.get("AGL_STORE_URL") or DEFAULT_URL
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"a store's URL must start with http:// or https://, not {url!r}", field="url")
        self.url = url.rstrip("/")
        self._token = token or os.environ.get("AGL_TOKEN")
        self._give_up_after = give_up_after
        self._transport = Transport(self.url, self._token)

    def __repr__(self) -> str:
        return f"LightningStoreClient({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(LightningStoreClient, token=self._token, give_up_after=self._give_up_after), (self.url,)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=True)

    @property
    def is_unreachable(self) -> bool:
        return self._transport.is_unreachable

    def otlp_traces_endpoint(self) -> str | None:
        return f"{self.url}/v1/traces"

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str | None:
        """Return a token that permits only adding spans to this attempt, or None if this client has no token."""
        return attempt_token(derive_secret(self._token), rollout_id, attempt_id) if self._token else None

    async def close(self) -> None:
        """Close the running event loop's connections. Connections of other event loops are closed with those loops."""
        await self._transport.close()

    # Long waits, each split into several calls (polls)

    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        ids = list(dict.fromkeys(rollout_ids))
        if not ids:
            return []
        finished: dict[str, AnyRollout] = {}

        async def poll(seconds: float) -> bool:
            # The store limits the size of a response, so repeat the call while it returns any rollouts.
            while unfinished := [rollout_id for rollout_id in ids if rollout_id not in finished]:
                found = await _RemoteStore.wait_for_rollouts(self, unfinished, seconds)
                if not found:
                    return False
                finished.update({rollout.rollout_id: rollout for rollout in found})
                seconds = 0.0
            return True

        await self._poll(timeout, poll)
        return [finished[rollout_id] for rollout_id in ids if rollout_id in finished]

    async def _poll(self, wait: float | None, poll: Callable[[float], Awaitable[Any]]) -> Any:
        """Call `poll` until it returns a non-empty result or `wait` seconds have passed. Return its last result.

        If `wait` is None, there is no time limit.
        """
        if wait is not None and not math.isfinite(wait):
            raise InvalidInput(f"cannot wait for {wait} seconds; pass None to wait indefinitely", field="wait, timeout")
        deadline = None if wait is None else time.monotonic() + wait
        while True:
            left = LONG_POLL_SECONDS if deadline is None else deadline - time.monotonic()
            result = await poll(max(0.0, min(left, LONG_POLL_SECONDS)))
            if result or (deadline is not None and deadline <= time.monotonic()):
                return result

    # Paginated lists

    async def _fetch_pages(self, operation: Operation, arguments: Arguments) -> PaginatedResult[Any]:
        """Return all requested items, fetching as many pages as necessary.

        Each page starts after the last item of the previous page, so changes between two requests do not shift the
        pages.
        """
        limit, offset = arguments.get("limit", -1), arguments.get("offset", 0)
        page: PaginatedResult[Any] = await self._execute(operation, arguments)
        items = list(page.items)
        while page.cursor is not None and len(items) != limit:
            rest = {"cursor": page.cursor, "offset": 0, "limit": -1 if limit < 0 else limit - len(items)}
            page = await self._execute(operation, {**arguments, **rest})
            items += page.items
        return page.model_copy(update={"items": items, "limit": limit, "offset": offset})

    # Single calls

    async def _call(self, operation: Operation, arguments: Arguments) -> Any:
        if operation.is_paginated:
            return await self._fetch_pages(operation, arguments)
        if operation.is_divisible:
            return await self._execute_in_parts(operation, arguments)
        if (waits := operation.wait_parameter) is None:
            return await self._execute(operation, arguments)
        return await self._poll(
            arguments.get(waits, 0.0), lambda seconds: self._execute(operation, {**arguments, waits: seconds})
        )

    async def _execute_in_parts(self, operation: Operation, arguments: Arguments) -> list[Any]:
        """Execute one call for every `MAX_ITEMS` items of the list, in order. Each call is atomic by itself."""
        [name] = operation.item_parameters
        if not isinstance(arguments[name], Sequence) or len(arguments[name]) <= payload.MAX_ITEMS:
            return await self._execute(operation, arguments)
        items = cast("Sequence[Any]", arguments[name])
        results: list[Any] = []
        for start in range(0, len(items), payload.MAX_ITEMS):
            part = items[start : start + payload.MAX_ITEMS]
            results += await self._execute(operation, {**arguments, name: part})
        return results

    async def _execute(self, operation: Operation, arguments: Arguments) -> Any:
        call = _store_call(operation, arguments)
        started = time.monotonic()
        tries = 0
        while True:
            outcome = await self._transport.send(call)
            if isinstance(outcome, StoreUnavailable):
                self._note_failure(tries, outcome, started)
            else:
                status, text = outcome
                if status == 200:
                    return self._decode(operation, text, arguments)
                if status < 500 or tries + 1 >= MAX_TRIES_ON_ERROR:
                    raise name_versions(error_from_problem(status, text), self._transport.store_version)
            await asyncio.sleep(RETRY.delay(tries))
            tries += 1

    def _decode(self, operation: Operation, text: bytes, arguments: Arguments) -> Any:
        try:
            return operation.decode(text, arguments)
        except ValueError as error:  # raised by pydantic and msgspec
            reason = f"the store at {self.url} returned an invalid response to {operation.name}: {error}"
            raise name_versions(AgentLightningError(reason), self._transport.store_version) from None

    def _note_failure(self, tries: int, reason: StoreUnavailable, started: float) -> None:
        if self._give_up_after is not None and time.monotonic() - started > self._give_up_after:
            message = f"the store at {self.url} has been unreachable for {self._give_up_after:g} s: {reason}"
            raise StoreUnavailable(message) from reason
        if tries > 0:  # a single failure usually means only that the server has just closed an idle connection
            self._transport.note_failure(reason)


def _store_call(operation: Operation, arguments: Arguments) -> StoreCall:
    """Build the request for a call. Raises `InvalidInput` if an id is invalid or JSON cannot represent an argument."""
    rest = dict(arguments)
    path = "".join(f"/{_path_part(name, rest.pop(name))}" for name in operation.path_parameters)
    is_get = operation.route.method == "GET"
    query = {name: _query_value(value) for name, value in rest.items() if value is not None} if is_get else {}
    body = None if is_get else payload.dumps_fields(rest)
    # The idempotency key begins with the current time, so that the store adds new keys at the end of its index.
    key = f"{time.time_ns():x}{os.urandom(8).hex()}" if operation.route.mutates else None
    wait = float(arguments.get("wait") or arguments.get("timeout") or 0.0)
    return StoreCall(operation, arguments, f"/{operation.name}{path}", query, body, key, wait)


def _path_part(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a string, not {type(value).__name__}", field=name)
    return quote(payload.check_id(value, name), safe="")


def _query_value(value: Any) -> str:
    return value if isinstance(value, str) else payload.dumps(value).decode()
