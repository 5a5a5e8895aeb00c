"""Streamed answers: the user's stream is the SDK's own, and the record is that of the whole answer."""

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

from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

from .conftest import raw, recorded, told


class Numbers(BaseModel):
    a: int


HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SEVEN_WORDS = "one two three four five six seven"


def _content(chunks: Any) -> str:
    # As the canonical loop has it: every chunk has a choice, since nobody has asked for a chunk with the usage.
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def _whole(client: OpenAI) -> str:
    return _content(client.chat.completions.create(model="m", messages=HELLO, stream=True))


def _within_with(client: OpenAI) -> str:
    with client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream:
        return _content(stream)


def _with_the_helper(client: OpenAI) -> str:
    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        return stream.get_final_completion().choices[0].message.content or ""


def _with_usage(client: OpenAI) -> str:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=options)
    return _content(chunk for chunk in stream if chunk.choices)


@pytest.mark.parametrize("read", [_whole, _within_with, _with_the_helper, _with_usage])
@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
async def test_a_stream_read_to_its_end_is_recorded_whole(
    model: ScriptedModel, client: OpenAI, read: Callable[[OpenAI], str], gzip: bool
) -> None:
    model.script(Answer(SEVEN_WORDS, gzip=gzip))
    async with recorded() as spans:
        assert read(client) == SEVEN_WORDS

    [span] = spans
    assert told(span, "completion.0.content", "completion.0.finish_reason", "response.id") == {
        "completion.0.content": SEVEN_WORDS,
        "completion.0.finish_reason": "stop",
        "response.id": "chatcmpl-1",
    }
    assert (span.attributes["agentlightning.streamed"], span.attributes.get("agentlightning.incomplete")) == (
        True,
        None,
    )
    assert raw(span, "response")["object"] == "chat.completion"
    assert "agentlightning.capture_error" not in span.attributes


async def test_the_request_is_sent_as_it_is(model: ScriptedModel, client: OpenAI) -> None:
    async with recorded():
        _whole(client)
    _whole(client)

    traced, bare = model.calls
    assert traced.raw == bare.raw
    assert traced.headers == bare.headers


async def test_chunks_and_the_streams_class_are_as_without_tracing(model: ScriptedModel, client: OpenAI) -> None:
    def chunks() -> list[dict[str, Any]]:
        model.reset().script(Answer(SEVEN_WORDS, tool_calls=[("add", {"a": 1})], logprobs=True, token_ids=[1, 2]))
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is Stream
        return [chunk.model_dump() for chunk in stream]

    async with recorded():
        traced = chunks()
    assert traced == chunks()


async def test_a_streamed_body_equals_the_body_that_is_not_streamed(model: ScriptedModel, client: OpenAI) -> None:
    answer = Answer("a b", tool_calls=[("add", {"a": 1}), ("sub", {"b": [2, 3]})], logprobs=True, token_ids=[7, 8])
    model.script(answer, answer)
    async with recorded() as spans:
        for stream in (False, True):
            said = client.chat.completions.create(model="m", messages=HELLO, stream=stream)
            list(said)

    whole, streamed = (json.loads(json.dumps(raw(span, "response")).replace("call_2", "call_1")) for span in spans)
    for body in (whole, streamed):
        body.pop("usage", None)
        body.pop("id")
        body["choices"][0]["message"].pop("refusal", None)
    assert streamed == whole
    assert spans[1].attributes["agentlightning.token_ids"] == "[7,8]"


async def test_a_stream_closed_early_is_recorded_as_far_as_it_came(model: ScriptedModel, client: OpenAI) -> None:
    model.script(SEVEN_WORDS)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        stream.close()

    _is_a_beginning(spans)


async def test_an_abandoned_stream_is_recorded_before_its_trace_context_is_left(
    model: ScriptedModel, client: OpenAI
) -> None:
    model.script(SEVEN_WORDS)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)

    _is_a_beginning(spans)
    # It is the user's to go on with, and no second record is made of it.
    assert "seven" in _content(stream)


async def test_a_forgotten_stream_is_recorded_when_it_is_collected(model: ScriptedModel, client: OpenAI) -> None:
    model.script(SEVEN_WORDS)
    async with recorded() as spans:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        del stream
        gc.collect()

    _is_a_beginning(spans)


def _is_a_beginning(spans: list[Span]) -> None:
    [span] = spans
    assert span.attributes["agentlightning.incomplete"] is True
    assert SEVEN_WORDS.startswith(span.attributes["gen_ai.completion.0.content"])
    assert (span.status.status_code, span.attributes.get("gen_ai.completion.0.finish_reason")) == ("UNSET", None)


async def test_a_stream_that_breaks_is_an_error_and_raises_what_it_would(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(SEVEN_WORDS, break_after=3))
    async with recorded() as spans:
        with pytest.raises(openai.APIConnectionError):
            _whole(client)

    [span] = spans
    assert span.status.status_code == "ERROR"
    assert told(span, "completion.0.content") == {"completion.0.content": "one two"}


async def test_an_error_in_place_of_a_stream_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer("too many", status=429))
    async with recorded() as spans:
        with pytest.raises(openai.RateLimitError):
            _whole(client)

    assert spans[0].status.description == "HTTP 429: too many"


async def test_async_streams_are_recorded_whole(model: ScriptedModel) -> None:
    model.script(Answer(SEVEN_WORDS, gzip=True), SEVEN_WORDS, SEVEN_WORDS)
    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as client, recorded() as spans:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is AsyncStream
        assert [chunk.choices[0].delta.content async for chunk in stream][1] == "one"

        async with client.chat.completions.stream(model="m", messages=HELLO) as helper:
            final = await helper.get_final_completion()
        assert final.choices[0].message.content == SEVEN_WORDS

        early = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        async for _ in early:
            break
        await early.close()

    assert [span.attributes["gen_ai.completion.0.content"] for span in spans][:2] == [SEVEN_WORDS, SEVEN_WORDS]
    assert [span.attributes.get("agentlightning.incomplete") for span in spans][:2] == [None, None]
    assert len(spans) == 3


async def test_a_cancelled_async_stream_ends_its_span(model: ScriptedModel) -> None:
    model.script(Answer(SEVEN_WORDS, delay=30))
    async with AsyncOpenAI(base_url=model.base_url, api_key="none", max_retries=0) as client, recorded() as spans:
        call = asyncio.ensure_future(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        await model.wait_for_calls(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    [span] = spans
    assert (span.status.status_code, span.attributes["error.type"]) == ("ERROR", "CancelledError")


async def test_streamed_responses_are_recorded_whole(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(SEVEN_WORDS, tool_calls=[("add", {"a": 1})]))
    async with recorded() as spans:
        with client.responses.stream(model="m", input="Hello") as stream:
            assert stream.get_final_response().output_text == SEVEN_WORDS

    assert told(spans[0], "completion.0.content", "response.id", "completion.0.tool_calls.0.name") == {
        "completion.0.content": SEVEN_WORDS,
        "response.id": "resp_1",
        "completion.0.tool_calls.0.name": "add",
    }


async def test_the_helpers_of_the_responses_api_are_seen_too(model: ScriptedModel, client: OpenAI) -> None:
    model.script(SEVEN_WORDS, '{"a": 1}')
    async with recorded() as spans:
        with client.responses.stream(model="m", input="Hello") as stream:
            assert stream.get_final_response().output_text == SEVEN_WORDS
        parsed = client.responses.parse(model="m", input="Hello", text_format=Numbers)

    assert parsed.output_parsed == Numbers(a=1)
    assert [span.attributes["gen_ai.completion.0.content"] for span in spans] == [SEVEN_WORDS, '{"a": 1}']


async def test_responses_closed_early_are_put_together(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(SEVEN_WORDS, break_after=5))
    async with recorded() as spans:
        stream = client.responses.create(model="m", input="Hello", stream=True)
        with pytest.raises(openai.APIConnectionError):
            list(stream)

    assert told(spans[0], "completion.0.content") == {"completion.0.content": "one two"}


async def test_streamed_completions_are_recorded_whole(model: ScriptedModel, client: OpenAI) -> None:
    model.script(SEVEN_WORDS)
    async with recorded() as spans:
        stream = client.completions.create(model="m", prompt="Hello", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == SEVEN_WORDS

    assert told(spans[0], "completion.0.content") == {"completion.0.content": SEVEN_WORDS}
