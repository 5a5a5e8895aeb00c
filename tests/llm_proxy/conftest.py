"""A scripted model, a store with one attempt in it, and a proxy between them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

import agentlightning as agl
from agentlightning.adapter import LLMCall, llm_calls
from agentlightning.http.server import GracefulServer
from tests.scripted_model import ScriptedModel


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as scripted:
        yield scripted


@pytest.fixture
async def store() -> AsyncIterator[agl.LightningStore]:
    async with agl.InMemoryLightningStore() as opened:
        yield opened


@pytest.fixture
async def proxy(model: ScriptedModel, store: agl.LightningStore) -> AsyncIterator[agl.LLMProxy]:
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store) as started:
        yield started


@dataclass
class Attempt:
    """An attempt that is running, and what it has to do with the proxy."""

    rollout_id: str
    attempt_id: str
    store: agl.LightningStore

    def url(self, proxy: agl.LLMProxy) -> str:
        return proxy.as_resource(self.rollout_id, self.attempt_id, model="m").endpoint

    def openai(self, proxy: agl.LLMProxy, **settings: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**{"base_url": self.url(proxy), "api_key": "none", "max_retries": 0, **settings})

    def anthropic(self, proxy: agl.LLMProxy) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url(proxy).removesuffix("/v1"), api_key="none", max_retries=0)

    async def spans(self) -> list[agl.Span]:
        return list(await self.store.query_spans(self.rollout_id, self.attempt_id))

    async def calls(self) -> list[LLMCall]:
        return llm_calls(await self.spans())

    async def call(self) -> LLMCall:
        [only] = await self.calls()
        return only


async def started(store: agl.LightningStore) -> Attempt:
    attempted = await store.start_rollout("a task")
    return Attempt(attempted.rollout_id, attempted.attempt.attempt_id, store)


@pytest.fixture
async def attempt(store: agl.LightningStore) -> Attempt:
    return await started(store)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI app from a thread of its own; the value is its base URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = GracefulServer(app, drain_seconds=1)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.request_stop()
        await asyncio.to_thread(thread.join)


class Tee:
    """An ASGI app that passes requests on to a server, and keeps the path and the answer of each."""

    def __init__(self, base_url: str) -> None:
        self._root = base_url.removesuffix("/v1")
        self.answers: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        kept = b""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.request(scope["method"], self._root + scope["path"], data=body, headers=_JSON) as response,
        ):
            kind = response.headers["content-type"].encode()
            await send({"type": "http.response.start", "status": response.status, "headers": [(b"content-type", kind)]})
            async for chunk in response.content.iter_any():
                kept += chunk
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.answers.append((scope["path"], kept))
        await send({"type": "http.response.body", "body": b""})


_JSON = {"content-type": "application/json"}
