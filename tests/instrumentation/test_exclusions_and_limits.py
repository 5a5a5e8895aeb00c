"""Requests that the wire tap does not record, its failures, and the size limits of records."""

from __future__ import annotations

import inspect
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from opentelemetry import context

from agentlightning import semconv
from agentlightning.instrumentation import call_record, llm_call
from agentlightning.instrumentation.context import SUPPRESSED
from tests.scripted_model import Answer, ScriptedModel

from .conftest import raw, recorded

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("key", [SUPPRESSED, "suppress_instrumentation"], ids=["current key", "old key"])
async def test_suppressed_calls_are_not_recorded(client: OpenAI, key: str) -> None:
    async with recorded() as spans:
        token = context.attach(context.set_value(key, True))
        client.chat.completions.create(model="m", messages=HELLO)
        context.detach(token)

    assert spans == []


async def test_wire_tap_can_be_disabled(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_WIRE_TAP", "off")
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=HELLO)

    assert spans == []


async def test_other_requests_are_not_recorded(model: ScriptedModel, client: OpenAI) -> None:
    async with recorded() as spans:
        client.models.list()
        with httpx2.Client() as http:
            http.post(f"{model.base_url}/messages", json={"role": "user", "content": "a thread's message"})
            http.post(f"{model.base_url}/nothing", content=b"chat/completions")

    assert spans == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"messages"', b"\xff"])
async def test_requests_with_other_bodies_are_not_recorded(model: ScriptedModel, content: bytes) -> None:
    async with recorded() as spans:
        with httpx2.Client() as http:
            http.post(f"{model.url}/elsewhere/messages", content=content)

    assert spans == []


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_call_without_an_sdk_is_recorded(model: ScriptedModel, library: str) -> None:
    http = pytest.importorskip(library)
    body = {"model": "m", "messages": HELLO}
    async with recorded() as spans, http.AsyncClient(base_url=model.base_url) as client:
        response = await client.post("/chat/completions", json=body)
        with (
            http.Client(base_url=model.base_url) as sync_client,
            sync_client.stream("POST", "/chat/completions", json={**body, "stream": True}) as stream,
        ):
            lines = [line for line in stream.iter_lines() if line]

    assert response.json()["id"] == "chatcmpl-1"
    assert lines[-1] == "data: [DONE]"
    assert [span.attributes["gen_ai.completion.0.content"] for span in spans] == ["You said: Hello"] * 2


def _fail(*_: Any) -> None:
    raise KeyError("a bug in the tap")


@pytest.mark.parametrize(
    ("owner", "name", "noted"),
    [
        (llm_call, "_dialect", []),
        (llm_call.OpenCall, "_end", ["KeyError: 'a bug in the tap'"] * 2),
        (call_record, "request_attributes", ["KeyError: 'a bug in the tap'"] * 2),
        (call_record, "response_attributes", ["KeyError: 'a bug in the tap'"] * 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_failure_of_the_wire_tap_is_recorded_on_the_span_only(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, noted: list[str]
) -> None:
    monkeypatch.setattr(owner, name, _fail)
    async with recorded() as spans:
        assert client.chat.completions.create(model="m", messages=HELLO).id == "chatcmpl-1"
        assert list(client.chat.completions.create(model="m", messages=HELLO, stream=True))

    assert [span.attributes[semconv.CAPTURE_ERROR] for span in spans] == noted


async def test_response_that_is_not_json_is_marked(model: ScriptedModel) -> None:
    async with recorded() as spans, httpx2.AsyncClient() as http:
        await http.post(f"{model.url}/elsewhere/messages", json={"messages": HELLO})

    assert (spans[0].status.status_code, spans[0].status.description) == ("ERROR", "HTTP 404: Not Found")
    assert "not a JSON object" in spans[0].attributes[semconv.CAPTURE_ERROR]


async def test_long_text_is_cut_in_the_record_only(model: ScriptedModel, client: OpenAI) -> None:
    huge = "x" * (call_record.MAX_BODY_BYTES + 1)
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=[*HELLO, {"role": "user", "content": huge}])

    assert model.calls[0].question == huge
    [span] = spans
    assert raw(span, "request")["messages"][0] == HELLO[0]
    assert raw(span, "request")["messages"][1]["content"].endswith(" characters left out)")
    assert sum(len(str(value)) for value in span.attributes.values()) < 100_000


async def test_long_stream_is_recorded_in_part(
    model: ScriptedModel, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_call, "MAX_STREAM_BYTES", 1000)
    model.script(Answer("word " * 500))
    async with recorded() as spans:
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))

    assert len(chunks) > 500
    assert spans[0].attributes[semconv.CAPTURE_ERROR] == "only the first 1000 bytes were recorded"
    assert spans[0].attributes["gen_ai.completion.0.content"].startswith("word word")


async def test_compressed_response_is_decompressed_only_up_to_the_limit(model: ScriptedModel) -> None:
    model.script(Answer("x" * 40_000_000, gzip=True))
    body = {"model": "m", "messages": HELLO}
    async with recorded() as spans:
        with httpx2.Client() as http, http.stream("POST", f"{model.base_url}/chat/completions", json=body) as response:
            received = sum(len(chunk) for chunk in response.iter_raw())

    assert received < 200_000
    assert spans[0].attributes[semconv.CAPTURE_ERROR].startswith("the response of 16000000 bytes")


async def test_tapped_functions_stay_coroutine_functions() -> None:
    async with recorded():
        assert inspect.iscoroutinefunction(httpx2.AsyncClient.send)
        assert not inspect.iscoroutinefunction(httpx2.Client.send)
