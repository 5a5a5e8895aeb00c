"""The same call gives the same view, whichever library recorded it: 27 scenarios, as real libraries saw them.

`make_fixtures.py` makes the fixtures. What a library itself leaves out cannot be read; it is listed here.
"""

from __future__ import annotations

import pytest

from agentlightning.adapter import LLMCall

from .golden import SCENARIOS, calls_of, fixture, spans_of

READ_IN_FULL = ("openinference", "opentelemetry", "openinference_and_wire", "agentops_and_wire")
ALONE = ("wire", "openinference", "opentelemetry", "agentops")
"""Those who promise to agree without help, where they were told."""

LEAVES_OUT = {
    "opentelemetry": {"refusal": "that what was said is a refusal"},
    "agentops": {
        "responses": "input that is plain text, and output text",
        "responses_tools": "call ids, function calls and their outputs in the input, output text",
        "anthropic_stream": "the system prompt, and what was streamed",
        "anthropic_tools": "tool calls in the conversation; a tool's answer is written as text",
    },
    "logfire": {"refusal": "refusals"},
    "langfuse": {
        "picture": "pictures, which it uploads",
        "refusal": "refusals",
        **dict.fromkeys(
            ("anthropic", "anthropic_turns", "anthropic_stream", "anthropic_tools"),
            "Anthropic, which it does not record",
        ),
    },
}


def test_every_fixture_has_every_scenario():
    for library in ("wire", *READ_IN_FULL, "agentops", "logfire", "langfuse"):
        assert list(fixture(library)) == SCENARIOS


def test_four_readers_agree_on_a_dozen_scenarios_and_more_each_alone():
    agreed = [
        scenario
        for scenario in SCENARIOS
        if all(_messages_and_output(library, scenario) == _messages_and_output("wire", scenario) for library in ALONE)
    ]

    told = {scenario for library in ALONE for scenario in LEAVES_OUT.get(library, {})}
    assert agreed == [scenario for scenario in SCENARIOS if scenario not in told]
    assert len(agreed) == 22


@pytest.mark.parametrize("library", READ_IN_FULL)
def test_readers_agree_with_the_wire_on_everything_that_was_said(library: str):
    for scenario in SCENARIOS:
        if scenario not in LEAVES_OUT.get(library, {}):
            read, wire = calls_of(library, scenario), calls_of("wire", scenario)
            assert [_all(call) for call in read] == [_all(call) for call in wire], scenario


@pytest.mark.parametrize("library", LEAVES_OUT)
def test_readers_agree_on_messages_and_output_except_for_what_they_were_not_told(library: str):
    for scenario in SCENARIOS:
        agrees = _messages_and_output(library, scenario) == _messages_and_output("wire", scenario)
        left_out = LEAVES_OUT[library].get(scenario)
        assert agrees is (left_out is None), f"{scenario}, which is said to leave out: {left_out}"


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


def _messages_and_output(library: str, scenario: str) -> list[tuple[object, ...]]:
    return [(call.messages, call.output) for call in calls_of(library, scenario)]


def _all(call: LLMCall) -> dict[str, object]:
    told = ("messages", "output", "tools", "finish_reason", "response_id", "model", "operation", "error")
    return {name: getattr(call, name) for name in told}
