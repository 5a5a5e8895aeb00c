"""Streams: the user gets the SDK's own stream, and the complete response is recorded."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from pydantic import BaseModel

from agentlightning.instrumentation.sse import EventBuffer, events
from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

from .conftest import gen_ai, raw, recorded


class Numbers(BaseModel):
    a: int


HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TEXT = "one two three four five six seven"


def _content(chunks: Any) -> str:
    # The usual loop: every chunk has a choice, since no chunk with the usage is requested.
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def _complete(client: OpenAI) -> str:
    return _content(client.chat.completions.create(model="m", messages=HELLO, stream=True))


def _in_with_block(client: OpenAI) -> str:
    with client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream:
        return _content(stream)


def _with_helper(client: OpenAI) -> str:
    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        return stream.get_final_completion().choices[0].message.content or ""


def _with_usage(client: OpenAI) -> str:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=options)
    return _content(chunk for chunk in stream if chunk.choices)


@pytest.mark.parametrize(
    ("read", "gzip"),
    [(_complete, False), (_complete, True), (_in_with_block, False), (_with_helper, True), (_with_usage, False)],
)
async def test_complete_stream_is_recorded(
    model: ScriptedModel, client: OpenAI, read: Callable[[OpenAI], str], gzip: bool
) -> None:
    model.script(Answer(TEXT, gzip=gzip))
    async with recorded() as spans:
        assert read(client) == TEXT

    [span] = spans
    assert gen_ai(span, "completion.0.content", "completion.0.finish_reason", "response.id") == {
        "completion.0.content": TEXT,
        "completion.0.finish_reason": "stop",
        "response.id": "chatcmpl-1",
    }
    assert (span.attributes["agentlightning.streamed"], span.attributes.get("agentlightning.incomplete")) == (
        True,
        None,
    )
    assert raw(span, "response")["object"] == "chat.completion"
    assert "agentlightning.capture_error" not in span.attributes


async def test_request_is_sent_unchanged(model: ScriptedModel, client: OpenAI) -> None:
    async with recorded():
        _complete(client)
    _complete(client)

    traced, untraced = model.calls
    assert traced.raw == untraced.raw
    assert traced.headers == untraced.headers


async def test_chunks_and_stream_type_are_the_same_without_tracing(model: ScriptedModel, client: OpenAI) -> None:
    def chunks() -> list[dict[str, Any]]:
        model.reset().script(Answer(TEXT, tool_calls=[("add", {"a": 1})], logprobs=True, token_ids=[1, 2]))
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is Stream
        return [chunk.model_dump() for chunk in stream]

    async with recorded():
        traced = chunks()
    assert traced == chunks()


async def test_body_combined_from_a_stream_equals_the_body_without_streaming(
    model: ScriptedModel, client: OpenAI
) -> None:
    answer = Answer("a b", tool_calls=[("add", {"a": 1}), ("sub", {"b": [2, 3]})], logprobs=True, token_ids=[7, 8])
    model.script(answer, answer)
    async with recorded() as spans:
        for stream in (False, True):
            list(client.chat.completions.create(model="m", messages=HELLO, stream=stream))

    whole, streamed = (json.loads(json.dumps(raw(span, "response")).replace("call_2", "call_1")) for span in spans)
    for body in (whole, streamed):
        body.pop("usage", None)
        body.pop("id")
        body["choices"][0]["message"].pop("refusal", None)
    assert streamed == whole
    assert spans[1].attributes["agentlightning.token_ids"] == "[7,8]"


async def test_stream_closed_early_is_recorded_as_incomplete(model: ScriptedModel, client: OpenAI) -> None:
    model.script(TEXT)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        stream.close()

    _assert_beginning(spans)


async def test_abandoned_stream_is_recorded_when_trace_context_exits(model: ScriptedModel, client: OpenAI) -> None:
    model.script(TEXT)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)

    _assert_beginning(spans)
    # The user can continue to read it, and no second record is made.
    assert "seven" in _content(stream)


async def test_stream_that_is_garbage_collected_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(TEXT)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        del stream
        gc.collect()

    _assert_beginning(spans)


def _assert_beginning(spans: list[Span]) -> None:
    [span] = spans
    assert span.attributes["agentlightning.incomplete"] is True
    assert TEXT.startswith(span.attributes["gen_ai.completion.0.content"])
    assert (span.status.status_code, span.attributes.get("gen_ai.completion.0.finish_reason")) == ("UNSET", None)


async def test_interrupted_stream_is_recorded_as_an_error(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(TEXT, break_after=3))
    async with recorded() as spans:
        with pytest.raises(openai.APIConnectionError):
            _complete(client)

    [span] = spans
    assert span.status.status_code == "ERROR"
    assert gen_ai(span, "completion.0.content") == {"completion.0.content": "one two"}


async def test_error_instead_of_a_stream_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer("too many", status=429))
    async with recorded() as spans:
        with pytest.raises(openai.RateLimitError):
            _complete(client)

    assert spans[0].status.description == "HTTP 429: too many"


async def test_async_streams_are_recorded(model: ScriptedModel) -> None:
    model.script(Answer(TEXT, gzip=True), TEXT, TEXT)
    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as client, recorded() as spans:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is AsyncStream
        assert [chunk.choices[0].delta.content async for chunk in stream][1] == "one"

        async with client.chat.completions.stream(model="m", messages=HELLO) as helper:
            final = await helper.get_final_completion()
        assert final.choices[0].message.content == TEXT

        early = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        async for _ in early:
            break
        await early.close()

    assert [span.attributes["gen_ai.completion.0.content"] for span in spans][:2] == [TEXT, TEXT]
    assert [span.attributes.get("agentlightning.incomplete") for span in spans][:2] == [None, None]
    assert len(spans) == 3


async def test_cancelled_async_stream_is_recorded_as_an_error(model: ScriptedModel) -> None:
    model.script(Answer(TEXT, delay=30))
    async with AsyncOpenAI(base_url=model.base_url, api_key="none", max_retries=0) as client, recorded() as spans:
        call = asyncio.ensure_future(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        await model.wait_for_calls(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    [span] = spans
    assert (span.status.status_code, span.attributes["error.type"]) == ("ERROR", "CancelledError")


async def test_stream_of_the_responses_api_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(TEXT, tool_calls=[("add", {"a": 1})]))
    async with recorded() as spans:
        with client.responses.stream(model="m", input="Hello") as stream:
            assert stream.get_final_response().output_text == TEXT

    assert gen_ai(spans[0], "completion.0.content", "response.id", "completion.0.tool_calls.0.name") == {
        "completion.0.content": TEXT,
        "response.id": "resp_1",
        "completion.0.tool_calls.0.name": "add",
    }


async def test_parse_of_the_responses_api_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(TEXT, '{"a": 1}')
    async with recorded() as spans:
        with client.responses.stream(model="m", input="Hello") as stream:
            assert stream.get_final_response().output_text == TEXT
        parsed = client.responses.parse(model="m", input="Hello", text_format=Numbers)

    assert parsed.output_parsed == Numbers(a=1)
    assert [span.attributes["gen_ai.completion.0.content"] for span in spans] == [TEXT, '{"a": 1}']


async def test_interrupted_responses_stream_is_combined(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(TEXT, break_after=5))
    async with recorded() as spans:
        stream = client.responses.create(model="m", input="Hello", stream=True)
        with pytest.raises(openai.APIConnectionError):
            list(stream)

    assert gen_ai(spans[0], "completion.0.content") == {"completion.0.content": "one two"}


async def test_stream_of_completions_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(TEXT)
    async with recorded() as spans:
        stream = client.completions.create(model="m", prompt="Hello", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == TEXT

    assert gen_ai(spans[0], "completion.0.content") == {"completion.0.content": TEXT}


def test_events_do_not_depend_on_the_chunks_if_lines_end_with_carriage_returns() -> None:
    stream = b'\r\rdata: {"b": 1}\r\n\r\nx\r\rdata: {"c": 2}\r\r'
    buffer = EventBuffer()

    found = [event for at in range(len(stream)) for event in events(buffer.add(stream[at : at + 1]))]

    assert found == events(stream) == [{"b": 1}, {"c": 2}]
