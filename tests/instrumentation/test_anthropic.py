"""The Anthropic SDK, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from agentlightning.adapter import llm_calls
from tests.scripted_model import Answer, ScriptedModel

from .conftest import raw, recorded, told

anthropic = pytest.importorskip("anthropic")

HELLO: Any = [{"role": "user", "content": "Hello"}]
ASKED: dict[str, Any] = {"model": "claude", "max_tokens": 100, "messages": HELLO}


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=model.url, api_key="none", max_retries=0) as client:
        yield client


def _ours(spans: list[Any]) -> list[Any]:
    # The SDK has spans of its own, without content unless asked.
    return [span for span in spans if span.name == "anthropic.messages"]


async def test_a_message_is_one_span(model: ScriptedModel, client: Any) -> None:
    model.script(Answer("Hi.", tool_calls=[("add", {"a": 1})]))
    async with recorded() as spans:
        client.messages.create(**ASKED, system="Be brief.")

    [span] = _ours(spans)
    assert told(span, "prompt.0.role", "prompt.0.content", "prompt.1.content", "completion.0.content") == {
        "prompt.0.role": "system",
        "prompt.0.content": "Be brief.",
        "prompt.1.content": "Hello",
        "completion.0.content": "Hi.",
    }
    assert told(span, "completion.0.finish_reason", "provider.name", "usage.total_tokens", "request.max_tokens") == {
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


async def test_a_streamed_message_amounts_to_the_whole_one(model: ScriptedModel, client: Any) -> None:
    answer = Answer("one two", tool_calls=[("add", {"a": 1})])
    model.script(answer, answer)
    async with recorded() as spans:
        client.messages.create(**ASKED)
        with client.messages.stream(**ASKED) as stream:
            final = stream.get_final_message()

    assert final.content[0].text == "one two"
    whole, streamed = (raw(span, "response") for span in _ours(spans))
    assert json.loads(json.dumps(streamed).replace("_2", "_1")) == whole


async def test_a_tools_answer_and_thoughts_are_told_apart(model: ScriptedModel, client: Any) -> None:
    used = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "2"}
    messages: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": [thought, used]},
        {"role": "user", "content": [result]},
    ]
    async with recorded() as spans:
        client.messages.create(**{**ASKED, "messages": messages})

    assert [message["parts"] for message in json.loads(_ours(spans)[0].attributes["gen_ai.input.messages"])] == [
        [{"type": "text", "content": "Hello"}],
        [
            {"type": "reasoning", "content": "Hm."},
            {"type": "tool_call", "id": "t1", "name": "add", "arguments": {"a": 1}},
        ],
        [{"type": "tool_call_response", "id": "t1", "response": "2"}],
    ]


async def test_an_error_is_recorded_as_the_api_says_it(model: ScriptedModel, client: Any) -> None:
    model.script(Answer("overloaded", status=529))
    async with recorded() as spans:
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**ASKED)

    assert _ours(spans)[0].status.description == "HTTP 529: overloaded"


def _plain(client: Any) -> None:
    client.messages.create(**ASKED)


def _streamed(client: Any) -> None:
    assert list(client.messages.create(**ASKED, stream=True))


def _with_the_helper(client: Any) -> None:
    with client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Hi."


def _left_early(client: Any) -> None:
    with client.messages.stream(**ASKED) as stream:
        next(iter(stream))


@pytest.mark.parametrize("call", [_plain, _streamed, _with_the_helper, _left_early])
async def test_the_sdks_own_span_and_ours_are_one_call(model: ScriptedModel, client: Any, call: Any) -> None:
    model.script("Hi.")
    async with recorded() as spans:
        call(client)

    assert len(spans) == 2
    [seen] = llm_calls(spans)
    assert seen.names == ["anthropic.messages", "anthropic.messages.create"]
    assert seen.messages == HELLO
    assert seen.error is None


@pytest.mark.parametrize(
    ("answers", "said", "error"),
    [((500, 500), [], "HTTP 500: scripted error"), ((500, 200), ["Hi."], None)],
    ids=["refused twice", "refused once"],
)
async def test_tries_of_one_call_and_the_sdks_own_span_are_one_call(
    model: ScriptedModel, answers: tuple[int, ...], said: list[str], error: str | None
) -> None:
    model.script(*(Answer("Hi." if status == 200 else None, status=status) for status in answers))
    async with recorded() as spans:
        with (
            anthropic.Anthropic(base_url=model.url, api_key="none", max_retries=1) as client,
            suppress(anthropic.InternalServerError),
        ):
            client.messages.create(**ASKED)

    [seen] = llm_calls(spans)
    assert [message["content"] for message in seen.output] == said
    assert seen.error == error
    assert len(seen.span_ids) == 3
