"""Model servers behind the LLM proxy, and the selection of a server for each call.

Servers can be replaced, and models can be paused, while calls are in flight.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, Literal, cast

import aiohttp
import orjson

from ..http.auth import Headers
from ..http.limits import Limits
from ..instrumentation.call_record import parse_object
from ..instrumentation.dialects.base import Json, items
from .errors import ProxyError
from .responses import UpstreamResponse, offload_if_large
from .upstreams import ANY_NAME, Upstream

logger = logging.getLogger(__name__)

Engine = Literal["vllm", "llama.cpp", "other"]
"""The inference engine that a server runs. It determines the parameters added to requests to get token ids."""

PROBE_TIMEOUT = 2.0
TOKENIZE_TIMEOUT = 10.0
"""Timeout in seconds for each request that fetches a prompt's token ids.

The agent receives the end of the model's response only after these requests have ended.
"""
_MAX_BODY_IN_ONE_WRITE = 1024 * 1024
"""Size in bytes from which a request body is sent in chunks. aiohttp warns about larger bytes objects."""
_FORWARDED_HEADERS = (b"anthropic-", b"openai-", b"x-stainless-", b"accept-language", b"user-agent")
"""A header of the agent's request is forwarded to the server if its name starts with one of these prefixes."""


class Routing:
    """Selects a model server for each call. Must be used in a single event loop.

    A call waits while its model is paused. If the selected server is replaced while the call waits, another server is
    selected. A call in flight continues on its server even if the server is replaced.
    """

    def __init__(self, upstreams: Sequence[Upstream], session: aiohttp.ClientSession, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._servers: list[ModelServer] = []
        self._paused: set[str] = set()
        self._changed = asyncio.Condition()
        self._retired: set[ModelServer] = set()
        self.replace(upstreams)

    @property
    def model_names(self) -> list[str]:
        """The names of the available models."""
        return list(dict.fromkeys(server.upstream.name for server in self._servers))

    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Replace all upstreams. For an unchanged upstream, the existing `ModelServer` remains in use."""
        known = {server.upstream: server for server in self._servers}
        previous = self._servers
        self._servers = [
            known.get(upstream) or ModelServer(upstream, self._session, self._limits) for upstream in upstreams
        ]
        self._retired = {
            server for server in {*self._retired, *previous} if server.in_flight and server not in self._servers
        }

    @asynccontextmanager
    async def server_for(self, model: object) -> AsyncGenerator[ModelServer]:
        """Reserve a server for a call to `model` until the block ends.

        Raises `ProxyError` if the model is unknown or if too many calls are already waiting for a server.
        """
        server = await self._acquire(model)
        try:
            yield server
        finally:
            server.release()

    async def _acquire(self, model: object) -> ModelServer:
        while True:
            server = self._select(model)
            if self._is_paused(server):
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._is_paused(self._select(model)))
                continue
            await server.acquire()
            if server in self._servers and not self._is_paused(server):
                return server
            server.release()  # the server was replaced, or its model was paused, while the call waited

    def _select(self, model: object) -> ModelServer:
        candidates = [server for server in self._servers if server.upstream.name == model]
        candidates = candidates or [server for server in self._servers if server.upstream.name == ANY_NAME]
        if not candidates:
            available = ", ".join(self.model_names) or "none"
            raise ProxyError(f"the proxy has no model named {str(model)[:100]!r}; available models: {available}", 404)
        return min(candidates, key=lambda server: server.in_flight)

    def _is_paused(self, server: ModelServer) -> bool:
        return server.upstream.name in self._paused

    # Pausing, for example while a model's weights are changed

    async def pause(self, names: Sequence[str]) -> None:
        """Make new calls to these models wait until `resume` is called. Without names, pause all models."""
        self._paused |= set(names or self.model_names)

    async def resume(self, names: Sequence[str]) -> None:
        """Let waiting and new calls to these models proceed. Without names, resume all models."""
        self._paused -= set(names or self._paused)
        async with self._changed:
            self._changed.notify_all()

    async def drain(self, names: Sequence[str]) -> None:
        """Wait until all calls in flight to these models have ended, including calls to servers that were replaced.

        Without names, wait for all models.
        """
        for server in [*self._servers, *self._retired]:
            if not names or server.upstream.name in names:
                await server.idle.wait()


class ModelServer:
    """Sends calls to one upstream within the upstream's limits, and counts the calls in flight."""

    def __init__(self, upstream: Upstream, session: aiohttp.ClientSession, limits: Limits) -> None:
        self.upstream = upstream
        self.session = session
        self.limits = limits
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._slots = asyncio.Semaphore(upstream.max_concurrency) if upstream.max_concurrency else None
        self._waiting = 0
        self._rate = _RateLimiter(upstream.requests_per_minute) if upstream.requests_per_minute else None
        self._engine: Engine | None = None if upstream.server == "auto" else upstream.server

    async def acquire(self) -> None:
        """Wait until the upstream's limits allow another call. Raises `ProxyError` if too many calls are waiting."""
        if self._slots is not None:
            await (self._wait(self._slots.acquire) if self._slots.locked() else self._slots.acquire())
        self.in_flight += 1
        self.idle.clear()
        if self._rate is not None:
            try:
                await self._wait(self._rate.wait)
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Release the capacity that `acquire` reserved for a call."""
        self.in_flight -= 1
        if self._slots is not None:
            self._slots.release()
        if not self.in_flight:
            self.idle.set()

    async def _wait(self, admission: Callable[[], Awaitable[Any]]) -> None:
        if self._waiting >= self.upstream.max_waiting:
            message = f"{self._waiting} calls are already waiting for the model {self.upstream.name!r}; retry later"
            raise ProxyError(message, 429, retry_after=1)
        self._waiting += 1
        try:
            await admission()
        finally:
            self._waiting -= 1

    # Requests

    def post(self, path: str, body: bytes, headers: Headers, client_key: str | None) -> Any:
        """Return an async context manager that sends a call and provides the aiohttp response."""
        upstream = self.upstream
        forwarded = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers.items()
            if name.startswith(_FORWARDED_HEADERS)
        }
        own = {"content-type": "application/json", "accept-encoding": "identity", **self._key(client_key)}
        return self.session.post(
            upstream.endpoint(path),
            data=body if len(body) < _MAX_BODY_IN_ONE_WRITE else BytesIO(body),
            headers={**forwarded, **own},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=upstream.connect_timeout, sock_read=upstream.timeout
            ),
            allow_redirects=False,
        )

    def _key(self, client_key: str | None = None) -> dict[str, str]:
        key = self.upstream.api_key or client_key
        if not key:
            return {}
        match self.upstream.addressed_as:
            case "openai":
                return {"authorization": f"Bearer {key}"}
            case "anthropic":
                return {"x-api-key": key}
            case "azure":
                return {"api-key": key}

    # Token ids

    async def engine(self) -> Engine:
        """Return the configured inference engine, or detect it with a request to the server.

        A detected engine is cached. If the request fails, return `other` and try again on the next call.
        """
        if self._engine is None:
            models = await self._request_json("GET", self.upstream.endpoint("models"), PROBE_TIMEOUT)
            if not models:
                return "other"
            owners = {str(model.get("owned_by")) for model in items(models.get("data"))}
            self._engine = "vllm" if "vllm" in owners else "llama.cpp" if "llamacpp" in owners else "other"
        return self._engine

    async def prompt_token_ids(self, path: str, request: Json) -> list[int] | None:
        """Request a prompt's token ids from a llama.cpp server, whose responses to model calls do not contain them.

        Return None if the token ids are not available.
        """
        root, text = self.upstream.root, request.get("prompt")
        if path == "chat/completions":
            conversation = {key: value for key, value in request.items() if key not in ("stream", "stream_options")}
            applied = await self._request_json("POST", f"{root}/apply-template", TOKENIZE_TIMEOUT, conversation)
            text = applied.get("prompt")
        if not isinstance(text, str):
            return None
        options = {"content": text, "add_special": True, "parse_special": True}
        tokenized = await self._request_json("POST", f"{root}/tokenize", TOKENIZE_TIMEOUT, options)
        token_ids = tokenized.get("tokens")
        return cast("list[int]", token_ids) if isinstance(token_ids, list) else None

    async def _request_json(self, method: str, url: str, timeout: float, body: Json | None = None) -> Json:
        """Return the JSON object from the server's response, or an empty dict if the request fails."""
        headers, data = {"content-type": "application/json", **self._key()}, orjson.dumps(body) if body else None
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self.session.request(
                method, url, data=data, headers=headers, timeout=limit, allow_redirects=False
            ) as response:
                content = await UpstreamResponse(response, self.upstream, self.limits).read()
                return await offload_if_large(len(content), parse_object, content)
        except (aiohttp.ClientError, ProxyError, TimeoutError, OSError) as error:
            logger.debug("%s %s failed: %r", method, url, error)
            return {}


class _RateLimiter:
    """Limits the number of calls per minute. A burst contains one second's worth of calls at most, or a single call."""

    def __init__(self, per_minute: float) -> None:
        self._interval = 60.0 / per_minute
        self._burst = max(0.0, 1.0 - self._interval)
        self._free_at = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        self._free_at = max(now - self._burst, self._free_at) + self._interval
        await asyncio.sleep(max(0.0, self._free_at - self._interval - now))
