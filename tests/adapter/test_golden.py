"""The same call gives the same view, whichever library recorded it: twelve scenarios, written down by real libraries.

`make_fixtures.py` makes the fixtures. What a library itself leaves out cannot be read; it is listed here.
"""

from __future__ import annotations

import pytest

from agentlightning.adapter import LLMCall

from .golden import SCENARIOS, calls_of, fixture, spans_of

READ_IN_FULL = ("openinference", "opentelemetry", "openinference_and_wire", "agentops_and_wire")

AGENTOPS_LEAVES_OUT = {
    "responses": "input that is plain text, and output text",
    "responses_tools": "call ids, function calls and their outputs in the input, output text",
    "anthropic_stream": "the system prompt, and what was streamed",
    "anthropic_tools": "tool calls in the conversation; a tool's answer is written as text",
}
LANGFUSE_LEAVES_OUT = {
    "picture": "pictures, which it uploads",
    "anthropic_stream": "Anthropic, which it does not record",
    "anthropic_tools": "Anthropic, which it does not record",
}


def test_there_are_twelve_scenarios_in_every_fixture():
    assert len(SCENARIOS) == 12
    for library in (*READ_IN_FULL, "agentops", "logfire", "langfuse"):
        assert list(fixture(library)) == SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("library", READ_IN_FULL)
def test_readers_agree_with_the_wire_on_everything_that_was_said(library: str, scenario: str):
    assert [_all(call) for call in calls_of(library, scenario)] == [_all(call) for call in calls_of("wire", scenario)]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("library", "leaves_out"),
    [("agentops", AGENTOPS_LEAVES_OUT), ("logfire", {}), ("langfuse", LANGFUSE_LEAVES_OUT)],
)
def test_poorer_readers_agree_on_messages_and_output(library: str, leaves_out: dict[str, str], scenario: str):
    read = [_said(call) for call in calls_of(library, scenario)]

    if scenario in leaves_out:
        assert read != [_said(call) for call in calls_of("wire", scenario)], (
            f"no longer left out: {leaves_out[scenario]}"
        )
    else:
        assert read == [_said(call) for call in calls_of("wire", scenario)]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("library", ["wire", *READ_IN_FULL, "agentops", "logfire"])
def test_every_call_stays_under_the_agents_own_span(library: str, scenario: str):
    agent = next(span.span_id for span in spans_of(library, scenario) if span.name == "agent")

    assert {call.parent_id for call in calls_of(library, scenario)} == {agent}


def test_the_view_of_a_conversation_is_this():
    [call] = calls_of("wire", "conversation")

    assert call.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "And today?"},
    ]
    assert call.output == [{"role": "assistant", "content": "It is 5, I think."}]
    assert call.parameters == {"temperature": 0.5, "max_tokens": 20, "seed": 7}
    assert (call.model, call.finish_reason, call.response_id) == ("m", "stop", "chatcmpl-1")
    assert call.usage == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


@pytest.mark.parametrize("scenario", ["responses_tools", "anthropic_tools"])
def test_the_second_turn_of_a_tool_call_is_chat_whichever_api_was_asked(scenario: str):
    first, second = calls_of("wire", scenario)
    [asked] = first.output
    call_id = asked["tool_calls"][0]["id"]

    assert asked["tool_calls"] == [
        {"id": call_id, "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    ]
    assert second.messages == [
        {"role": "user", "content": "What is 2 + 3?"},
        asked,
        {"role": "tool", "tool_call_id": call_id, "content": "5"},
    ]
    assert second.tools == first.tools
    assert first.tools is not None
    assert first.tools[0]["function"]["name"] == "add"


def _said(call: LLMCall) -> tuple[object, ...]:
    return call.messages, call.output


def _all(call: LLMCall) -> dict[str, object]:
    told = ("messages", "output", "tools", "finish_reason", "response_id", "model", "operation", "error")
    return {name: getattr(call, name) for name in told}
