"""TraceToMessages: conversations for fine-tuning."""

from __future__ import annotations

import agentlightning as agl

from .golden import span, spans_of, wire_span


def test_each_successful_call_becomes_one_conversation():
    spans = [
        wire_span("one", "1"),
        span("agentlightning.reward"),
        wire_span("two", "2"),
        wire_span("three", None, error="no"),
    ]

    assert agl.TraceToMessages().adapt(spans) == [
        {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}], "tools": None},
        {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "2"}], "tools": None},
    ]


def test_conversation_has_tool_call_and_definition():
    [conversation] = agl.TraceToMessages().adapt(spans_of("wire", "tool_call"))

    assert conversation["messages"][-1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
        ],
    }
    assert conversation["tools"] is not None
    assert conversation["tools"][0]["function"]["parameters"]["type"] == "object"


def test_tool_result_follows_its_tool_call():
    for scenario in ("tool_result", "responses_tools", "anthropic_tools"):
        messages = agl.TraceToMessages().adapt(spans_of("opentelemetry", scenario))[-1]["messages"]

        assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]


def test_trace_without_calls_has_no_conversations():
    assert agl.TraceToMessages().adapt([span("agent"), span("agentlightning.reward")]) == []
