"""Calls through aiohttp and requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import requests

from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

from .conftest import raw, recorded

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAM_REQUEST = {**REQUEST, "stream": True}
TEXT = "You said: Hello"


async def test_call_through_aiohttp_is_recorded(model: ScriptedModel) -> None:
    async with recorded() as spans, aiohttp.ClientSession() as session:
        async with session.post(f"{model.base_url}/chat/completions", json=REQUEST) as response:
            answer = await response.json()
        async with session.post(f"{model.base_url}/chat/completions", data=json.dumps(REQUEST)) as response:
            await response.read()

    assert [raw(span, "request") for span in spans] == [REQUEST, REQUEST]
    assert raw(spans[0], "response") == answer
    assert spans[0].attributes["server.port"] == int(model.base_url.split(":")[2].split("/")[0])
    assert [span.attributes["gen_ai.completion.0.content"] for span in spans] == [TEXT, TEXT]


@pytest.mark.parametrize(("reader", "gzip"), [("lines", False), ("any", True), ("chunks", False), ("whole", True)])
async def test_stream_through_aiohttp_is_recorded_with_every_reader(
    model: ScriptedModel, reader: str, gzip: bool
) -> None:
    model.script(Answer(TEXT, gzip=gzip))
    async with recorded() as spans, _stream(model) as response:
        match reader:
            case "lines":
                body = b"".join([line async for line in response.content])
            case "any":
                body = b"".join([chunk async for chunk in response.content.iter_any()])
            case "chunks":
                body = b"".join([chunk async for chunk, _ in response.content.iter_chunks()])
            case _:
                body = await response.read()

    assert body.endswith(b"data: [DONE]\n\n")
    [span] = spans
    assert span.attributes["gen_ai.completion.0.content"] == TEXT
    assert "agentlightning.incomplete" not in span.attributes


async def test_aiohttp_stream_closed_early_is_recorded_as_incomplete(model: ScriptedModel) -> None:
    model.script(Answer("word " * 20_000))
    async with recorded() as spans, _stream(model) as response:
        await response.content.readline()

    [span] = spans
    assert span.attributes["agentlightning.incomplete"] is True
    assert span.status.status_code == "UNSET"


async def test_interrupted_aiohttp_stream_is_recorded_as_an_error(model: ScriptedModel) -> None:
    model.script(Answer("one two three", break_after=2))
    async with recorded() as spans, _stream(model) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    [span] = spans
    assert (span.status.status_code, span.attributes["error.type"]) == ("ERROR", "ClientPayloadError")


async def test_errors_through_aiohttp_are_recorded(model: ScriptedModel) -> None:
    model.script(Answer("too much", status=429))
    async with recorded() as spans, aiohttp.ClientSession() as session:
        async with session.post(f"{model.base_url}/chat/completions", json=REQUEST) as response:
            assert response.status == 429
            await response.read()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.1:1/v1/chat/completions", json=REQUEST)

    assert [span.status.status_code for span in spans] == ["ERROR", "ERROR"]
    assert spans[0].status.description == "HTTP 429: too much"


def test_call_through_requests_is_recorded(model: ScriptedModel) -> None:
    spans = _spans_of(lambda: requests.post(f"{model.base_url}/chat/completions", json=REQUEST, timeout=10).json())

    [span] = spans
    assert raw(span, "request") == REQUEST
    assert span.attributes["gen_ai.completion.0.content"] == TEXT


@pytest.mark.parametrize(("reader", "gzip"), [("lines", False), ("content", False), ("content", True)])
def test_stream_through_requests_is_recorded_with_every_reader(model: ScriptedModel, reader: str, gzip: bool) -> None:
    model.script(Answer(TEXT, gzip=gzip))

    def read() -> bytes:
        with requests.post(
            f"{model.base_url}/chat/completions", json=STREAM_REQUEST, stream=True, timeout=10
        ) as response:
            return response.content if reader == "content" else b"\n".join(response.iter_lines())

    [span] = _spans_of(read)
    assert span.attributes["gen_ai.completion.0.content"] == TEXT
    assert "agentlightning.incomplete" not in span.attributes


def test_requests_stream_closed_early_is_recorded_as_incomplete(model: ScriptedModel) -> None:
    model.script(Answer("word " * 20_000))

    def read() -> None:
        with requests.post(
            f"{model.base_url}/chat/completions", json=STREAM_REQUEST, stream=True, timeout=10
        ) as response:
            next(response.iter_lines())

    [span] = _spans_of(read)
    assert span.attributes["agentlightning.incomplete"] is True


def test_errors_through_requests_are_recorded(model: ScriptedModel) -> None:
    model.script(Answer("too much", status=429))

    def fail() -> None:
        assert requests.post(f"{model.base_url}/chat/completions", json=REQUEST, timeout=10).status_code == 429
        with pytest.raises(requests.ConnectionError):
            requests.post("http://127.0.0.1:1/v1/chat/completions", json=REQUEST, timeout=10)

    spans = _spans_of(fail)
    assert [span.status.status_code for span in spans] == ["ERROR", "ERROR"]
    assert spans[0].status.description == "HTTP 429: too much"


def _spans_of(work: Callable[[], object]) -> list[Span]:
    async def record() -> list[Span]:
        async with recorded() as spans:
            work()
        return spans

    return asyncio.run(record())


@asynccontextmanager
async def _stream(model: ScriptedModel) -> AsyncIterator[aiohttp.ClientResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{model.base_url}/chat/completions", json=STREAM_REQUEST) as response,
    ):
        yield response


async def _aiohttp_requests(model: ScriptedModel) -> None:
    async with recorded() as spans, aiohttp.ClientSession(model.url) as session:
        async with session.get("/v1/models") as response:
            assert type(response.content) is aiohttp.StreamReader
        async with session.post("/elsewhere", json={"messages": []}) as response:
            assert response.status == 404

    assert spans == []


def test_other_requests_of_aiohttp_and_requests_are_not_recorded(model: ScriptedModel) -> None:
    asyncio.run(_aiohttp_requests(model))
    assert _spans_of(lambda: requests.get(f"{model.base_url}/models", timeout=10)) == []
