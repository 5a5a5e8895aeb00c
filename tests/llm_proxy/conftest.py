"""A scripted model, a store with one attempt, and a proxy between them."""

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

HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="package")
def running_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def model(running_model: ScriptedModel) -> ScriptedModel:
    return running_model.reset()


@pytest.fixture
async def store() -> AsyncIterator[agl.LightningStore]:
    async with agl.InMemoryLightningStore() as opened:
        yield opened


@pytest.fixture
async def proxy(model: ScriptedModel, store: agl.LightningStore) -> AsyncIterator[agl.LLMProxy]:
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store) as started:
        yield started


@dataclass
class ProxyAttempt:
    """A running attempt, with clients for its URL and the calls recorded for it."""

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


async def start_attempt(store: agl.LightningStore) -> ProxyAttempt:
    attempted = await store.start_rollout("a task")
    return ProxyAttempt(attempted.rollout_id, attempted.attempt.attempt_id, store)


@pytest.fixture
async def attempt(store: agl.LightningStore) -> ProxyAttempt:
    return await start_attempt(store)


async def post_chat(url: str, *, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, bytes]:
    """Send a chat completion without an SDK; return the status and the complete response."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}/chat/completions", json={"model": "m", "messages": HELLO, **body}, headers=headers
        ) as response,
    ):
        return response.status, await response.read()


def upstream(url: str, **settings: Any) -> dict[str, Any]:
    """Return an entry of a model list for a server made by the test, which has no list of models to probe."""
    return {"name": "m", "url": url, "server": "other", **settings}


@asynccontextmanager
async def serve_app(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI app in a separate thread; yield its base URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = GracefulServer(app, drain_seconds=1)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.request_stop()
        await asyncio.to_thread(thread.join)


async def start_stream(receive: Any, send: Any) -> None:
    """Receive a request and start an event stream, in an ASGI app."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def chunk(text: str) -> dict[str, Any]:
    """Return the ASGI message with one chunk of a streamed chat completion."""
    data = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()
    return {"type": "http.response.body", "body": data, "more_body": True}


class RecordingForwarder:
    """An ASGI app that forwards requests to a server and keeps the path and response of each."""

    def __init__(self, base_url: str) -> None:
        self._root = base_url.removesuffix("/v1")
        self.responses: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        headers, received = {"content-type": "application/json"}, b""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.request(scope["method"], self._root + scope["path"], data=body, headers=headers) as response,
        ):
            kind = response.headers["content-type"].encode()
            await send({"type": "http.response.start", "status": response.status, "headers": [(b"content-type", kind)]})
            async for part in response.content.iter_any():
                received += part
                await send({"type": "http.response.body", "body": part, "more_body": True})
        self.responses.append((scope["path"], received))
        await send({"type": "http.response.body", "body": b""})
