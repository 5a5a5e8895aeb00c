"""Calls of the Anthropic SDK, with and without streaming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from agentlightning.adapter import llm_calls
from tests.scripted_model import Answer, ScriptedModel

from .conftest import gen_ai, raw, recorded

anthropic = pytest.importorskip("anthropic")

HELLO: Any = [{"role": "user", "content": "Hello"}]
ASKED: dict[str, Any] = {"model": "claude", "max_tokens": 100, "messages": HELLO}


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=model.url, api_key="none", max_retries=0) as client:
        yield client


def _wire_tap_spans(spans: list[Any]) -> list[Any]:
    # The SDK creates spans of its own too, without content unless configured.
    return [span for span in spans if span.name == "anthropic.messages"]


async def test_message_is_one_span(model: ScriptedModel, client: Any) -> None:
    model.script(Answer("Hi.", tool_calls=[("add", {"a": 1})]))
    async with recorded() as spans:
        client.messages.create(**ASKED, system="Be brief.")

    [span] = _wire_tap_spans(spans)
    assert gen_ai(span, "prompt.0.role", "prompt.0.content", "prompt.1.content", "completion.0.content") == {
        "prompt.0.role": "system",
        "prompt.0.content": "Be brief.",
        "prompt.1.content": "Hello",
        "completion.0.content": "Hi.",
    }
    assert gen_ai(span, "completion.0.finish_reason", "provider.name", "usage.total_tokens", "request.max_tokens") == {
        "completion.0.finish_reason": "tool_calls",
        "provider.name": "anthropic",
        "usage.total_tokens": 2,
        "request.max_tokens": 100,
    }
    assert json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"][1] == {
        "type": "tool_call",
        "id": "toolu_1_0",
        "name": "add",
        "arguments": {"a": 1},
    }


async def test_streamed_message_is_recorded_like_one_without_streaming(model: ScriptedModel, client: Any) -> None:
    answer = Answer("one two", tool_calls=[("add", {"a": 1})])
    model.script(answer, answer)
    async with recorded() as spans:
        client.messages.create(**ASKED)
        with client.messages.stream(**ASKED) as stream:
            final = stream.get_final_message()

    assert final.content[0].text == "one two"
    whole, streamed = (raw(span, "response") for span in _wire_tap_spans(spans))
    assert json.loads(json.dumps(streamed).replace("_2", "_1")) == whole


async def test_tool_results_and_thinking_are_separate_parts(model: ScriptedModel, client: Any) -> None:
    used = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "2"}
    messages: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": [thinking, used]},
        {"role": "user", "content": [result]},
    ]
    async with recorded() as spans:
        client.messages.create(**{**ASKED, "messages": messages})

    assert [
        message["parts"] for message in json.loads(_wire_tap_spans(spans)[0].attributes["gen_ai.input.messages"])
    ] == [
        [{"type": "text", "content": "Hello"}],
        [
            {"type": "reasoning", "content": "Hm."},
            {"type": "tool_call", "id": "t1", "name": "add", "arguments": {"a": 1}},
        ],
        [{"type": "tool_call_response", "id": "t1", "response": "2"}],
    ]


async def test_error_is_recorded_with_the_message_of_the_api(model: ScriptedModel, client: Any) -> None:
    model.script(Answer("overloaded", status=529))
    async with recorded() as spans:
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**ASKED)

    assert _wire_tap_spans(spans)[0].status.description == "HTTP 529: overloaded"


def _plain(client: Any) -> None:
    client.messages.create(**ASKED)


def _streamed(client: Any) -> None:
    assert list(client.messages.create(**ASKED, stream=True))


def _with_helper(client: Any) -> None:
    with client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Hi."


def _closed_early(client: Any) -> None:
    with client.messages.stream(**ASKED) as stream:
        next(iter(stream))


@pytest.mark.parametrize("make_call", [_plain, _streamed, _with_helper, _closed_early])
async def test_spans_of_sdk_and_wire_tap_are_one_call(model: ScriptedModel, client: Any, make_call: Any) -> None:
    model.script("Hi.")
    async with recorded() as spans:
        make_call(client)

    assert len(spans) == 2
    [call] = llm_calls(spans)
    assert call.names == ["anthropic.messages", "anthropic.messages.create"]
    assert call.messages == HELLO
    assert call.error is None


@pytest.mark.parametrize(
    ("statuses", "texts", "error"),
    [((500, 500), [], "HTTP 500: scripted error"), ((500, 200), ["Hi."], None)],
    ids=["refused twice", "refused once"],
)
async def test_retries_and_span_of_the_sdk_are_one_call(
    model: ScriptedModel, statuses: tuple[int, ...], texts: list[str], error: str | None
) -> None:
    model.script(*(Answer("Hi." if status == 200 else None, status=status) for status in statuses))
    async with recorded() as spans:
        with (
            anthropic.Anthropic(base_url=model.url, api_key="none", max_retries=1) as client,
            suppress(anthropic.InternalServerError),
        ):
            client.messages.create(**ASKED)

    [call] = llm_calls(spans)
    assert [message["content"] for message in call.output] == texts
    assert call.error == error
    assert len(call.span_ids) == 3
