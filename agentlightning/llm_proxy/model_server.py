"""One model server behind the proxy: how it is reached, how many calls it takes, and what it can tell of tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

import aiohttp
import orjson

from ..instrumentation.dialects.base import Json, as_object, items
from .auth import Headers
from .proxy_errors import Refused
from .upstreams import Upstream

logger = logging.getLogger(__name__)

Program = Literal["vllm", "llama.cpp", "other"]

PROBE_SECONDS = 2.0
TOKENIZE_SECONDS = 10.0
"""How long the prompt's token ids may hold up an answer's end."""
_OWNERS: dict[str, Program] = {"vllm": "vllm", "llamacpp": "llama.cpp"}
_PASSED_ON = (b"anthropic-", b"openai-", b"x-stainless-", b"accept-language", b"user-agent")
"""Beginnings of the headers that the server gets as the agent sent them."""


class Server:
    """An upstream at work."""

    def __init__(self, upstream: Upstream, session: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.session = session
        self.under_way = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._slots = asyncio.Semaphore(upstream.max_concurrency) if upstream.max_concurrency else None
        self._waiting = 0
        self._pace = _Pace(upstream.requests_per_minute) if upstream.requests_per_minute else None
        self._program: Program | None = None if upstream.server == "auto" else upstream.server

    async def enter(self) -> None:
        """Wait for this call's turn. Raises `Refused` where too many wait already."""
        if self._slots is not None and self._slots.locked():
            await self._wait(self._slots.acquire)
        elif self._slots is not None:
            await self._slots.acquire()
        self.under_way += 1
        self.idle.clear()
        if self._pace is not None:
            try:
                await self._wait(self._pace.wait)
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """The call is over."""
        self.under_way -= 1
        if self._slots is not None:
            self._slots.release()
        if not self.under_way:
            self.idle.set()

    async def _wait(self, turn: Callable[[], Awaitable[Any]]) -> None:
        if self._waiting >= self.upstream.max_waiting:
            raise Refused(
                f"{self._waiting} calls already wait for the model {self.upstream.name!r}", 429, retry_after=1
            )
        self._waiting += 1
        try:
            await turn()
        finally:
            self._waiting -= 1

    # How it is asked

    def post(self, path: str, body: bytes, headers: Headers, agents_key: str | None) -> Any:
        """The request for an aiohttp response, to be entered with `async with`."""
        upstream = self.upstream
        return self.session.post(
            upstream.endpoint(path),
            data=body,
            headers=self._headers(headers, agents_key),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=upstream.connect_timeout, sock_read=upstream.timeout
            ),
            allow_redirects=False,
        )

    def _headers(self, given: Headers, agents_key: str | None) -> dict[str, str]:
        passed_on = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in given.items()
            if name.startswith(_PASSED_ON)
        }
        return {**passed_on, "content-type": "application/json", "accept-encoding": "identity", **self._key(agents_key)}

    def _key(self, agents_key: str | None) -> dict[str, str]:
        key = self.upstream.api_key or agents_key
        if not key:
            return {}
        match self.upstream.addressed_as:
            case "openai":
                return {"authorization": f"Bearer {key}"}
            case "anthropic":
                return {"x-api-key": key}
            case "azure":
                return {"api-key": key}

    # What it can tell of tokens

    async def program(self) -> Program:
        """Which program it is. Asked once; as long as it does not answer, it counts as any other."""
        if self._program is None:
            models = as_object(await self._get(self.upstream.endpoint("models")))
            if not models:
                return "other"
            self._program = _program(models)
        return self._program

    async def prompt_token_ids(self, path: str, asked: Json) -> list[int] | None:
        """The token ids that a prompt has on a llama.cpp server, which gives them on request only."""
        try:
            text: Any = asked.get("prompt")
            if path == "chat/completions":
                whole = {key: value for key, value in asked.items() if key not in ("stream", "stream_options")}
                text = (await self._ask("/apply-template", whole)).get("prompt")
            if not isinstance(text, str):
                return None
            ids = (await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})).get(
                "tokens"
            )
            return cast("list[int]", ids) if isinstance(ids, list) else None
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            logger.debug("The prompt's token ids could not be had: %r", error)
            return None

    async def _ask(self, path: str, body: Json) -> Json:
        url, headers = f"{self.upstream.root}{path}", {"content-type": "application/json", **self._key(None)}
        timeout = aiohttp.ClientTimeout(total=TOKENIZE_SECONDS)
        async with self.session.post(url, data=orjson.dumps(body), headers=headers, timeout=timeout) as response:
            return as_object(orjson.loads(await response.read())) if response.status == 200 else {}

    async def _get(self, url: str) -> Any:
        try:
            timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
            async with self.session.get(url, headers=self._key(None), timeout=timeout) as response:
                return orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            logger.debug("%s did not say which program it is: %r", url, error)
            return None


def _program(models: Json) -> Program:
    for model in items(models.get("data")):
        if (owner := str(model.get("owned_by"))) in _OWNERS:
            return _OWNERS[owner]
    return "other"


class _Pace:
    """So many calls a minute, and no more than a second's worth of them at once."""

    def __init__(self, per_minute: float) -> None:
        self._gap = 60.0 / per_minute
        self._burst = max(0.0, 1.0 - self._gap)
        self._free_at = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        self._free_at = max(now - self._burst, self._free_at) + self._gap
        await asyncio.sleep(max(0.0, self._free_at - self._gap - now))
