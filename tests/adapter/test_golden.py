"""The same call has the same view for every library: 27 scenarios, as real libraries recorded them.

`make_fixtures.py` creates the fixtures. A library's omissions are listed here.
"""

from __future__ import annotations

import pytest

from agentlightning.adapter import LLMCall

from .golden import SCENARIOS, calls_of, fixture, spans_of

COMPLETE = ("openinference", "opentelemetry", "openinference_and_wire", "agentops_and_wire")
SINGLE = ("wire", "openinference", "opentelemetry", "agentops")
"""Libraries that agree without the spans of the wire tap, except for their omissions."""

OMISSIONS = {
    "opentelemetry": {"refusal": "refusals are text"},
    "agentops": {
        "responses": "input that is plain text, and output text",
        "responses_tools": "call ids, function calls and their outputs in the input, output text",
        "anthropic_stream": "the system prompt and the streamed output",
        "anthropic_tools": "tool calls in the conversation; the result of a tool is text",
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
    for library in ("wire", *COMPLETE, "agentops", "logfire", "langfuse"):
        assert list(fixture(library)) == SCENARIOS


def test_single_libraries_agree_except_for_their_omissions():
    agreed = [
        scenario
        for scenario in SCENARIOS
        if all(_messages_and_output(library, scenario) == _messages_and_output("wire", scenario) for library in SINGLE)
    ]

    omitted = {scenario for library in SINGLE for scenario in OMISSIONS.get(library, {})}
    assert agreed == [scenario for scenario in SCENARIOS if scenario not in omitted]
    assert len(agreed) == 22


@pytest.mark.parametrize("library", COMPLETE)
def test_complete_libraries_agree_with_the_wire_in_every_field(library: str):
    for scenario in SCENARIOS:
        if scenario not in OMISSIONS.get(library, {}):
            calls, wire = calls_of(library, scenario), calls_of("wire", scenario)
            assert [_fields(call) for call in calls] == [_fields(call) for call in wire], scenario


@pytest.mark.parametrize("library", OMISSIONS)
def test_libraries_agree_on_messages_and_output_except_for_their_omissions(library: str):
    for scenario in SCENARIOS:
        agrees = _messages_and_output(library, scenario) == _messages_and_output("wire", scenario)
        omitted = OMISSIONS[library].get(scenario)
        assert agrees is (omitted is None), f"{scenario}, omitted: {omitted}"


@pytest.mark.parametrize("library", ["wire", *COMPLETE, "agentops", "logfire"])
def test_parent_of_every_call_is_the_agents_span(library: str):
    for scenario in SCENARIOS:
        agent = next(span.span_id for span in spans_of(library, scenario) if span.name == "agent")

        assert {call.parent_id for call in calls_of(library, scenario)} == {agent}, scenario


def test_view_of_a_conversation():
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
def test_second_turn_of_a_tool_call_is_in_chat_format_for_every_api(scenario: str):
    first, second = calls_of("wire", scenario)
    [message] = first.output
    call_id = message["tool_calls"][0]["id"]

    assert message["tool_calls"] == [
        {"id": call_id, "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    ]
    assert second.messages == [
        {"role": "user", "content": "What is 2 + 3?"},
        message,
        {"role": "tool", "tool_call_id": call_id, "content": "5"},
    ]
    assert second.tools == first.tools
    assert first.tools is not None
    assert first.tools[0]["function"]["name"] == "add"


def _messages_and_output(library: str, scenario: str) -> list[tuple[object, ...]]:
    return [(call.messages, call.output) for call in calls_of(library, scenario)]


def _fields(call: LLMCall) -> dict[str, object]:
    names = ("messages", "output", "tools", "finish_reason", "response_id", "model", "operation", "error")
    return {name: getattr(call, name) for name in names}
