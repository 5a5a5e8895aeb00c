"""Reading of rewards in every notation, and of messages and objects."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.adapter import (
    find_final_reward,
    find_reward_spans,
    get_message_value,
    get_object_value,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from agentlightning.types import SpanCoreFields

NOTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("agentlightning.annotation", {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}),
    ("agentlightning.reward", {"reward": 0.5}),
    ("agentlightning.annotation", {"reward": 0.5}),
    ("reward", {"value": 0.5}),
    ("any.operation", {"agentops.task.output": '{"type": "reward", "value": 0.5}'}),
    ("any.operation", {"agentops.entity.output": '{"type": "reward", "value": 0.5}'}),
]

NO_REWARDS: list[tuple[str, dict[str, Any]]] = [
    ("openai.chat.completion", {"reward": 0.5, "value": 0.5}),
    ("agentlightning.annotation", {"note": 0.5}),
    ("agentlightning.annotation", {"agentlightning.reward.0.value": "nan"}),
    ("agentlightning.annotation", {"agentlightning.reward.0.value": None}),
    ("agentlightning.reward", {"reward": None}),
    ("reward", {}),
    ("reward", {"value": float("nan")}),
    ("any.operation", {"agentops.task.output": '{"type": "reward", "value": null}'}),
    ("any.operation", {"agentops.task.output": '{"type": "message", "value": 1}'}),
    ("any.operation", {"agentops.task.output": "not JSON"}),
    ("any.operation", {"agentops.task.output": "[1]"}),
]


def _span(name: str, attributes: dict[str, Any]) -> SpanCoreFields:
    return SpanCoreFields(name=name, attributes=attributes)


@pytest.mark.parametrize(("name", "attributes"), NOTATIONS)
def test_every_notation_is_a_reward(name: str, attributes: dict[str, Any]) -> None:
    span = _span(name, attributes)
    assert is_reward_span(span)
    assert get_reward_value(span) == 0.5


@pytest.mark.parametrize(("name", "attributes"), NO_REWARDS)
def test_span_without_a_number_has_no_reward(name: str, attributes: dict[str, Any]) -> None:
    span = _span(name, attributes)
    assert not is_reward_span(span)
    assert get_reward_value(span) is None
    assert get_rewards_from_span(span) == []


def test_final_reward_is_the_primary_of_the_last_reward_span() -> None:
    first, last = _span("reward", {"value": 0}), _span(*NOTATIONS[0])
    other = _span("openai.chat.completion", {})
    assert find_final_reward([first, last, other]) == 0.5
    assert find_final_reward([last, first]) == 0.0
    assert find_final_reward([other]) is None
    assert find_final_reward([]) is None
    assert find_reward_spans([first, other, last]) == [first, last]


def test_zero_and_booleans_are_rewards() -> None:
    assert get_reward_value(_span("reward", {"value": 0})) == 0.0
    assert get_reward_value(_span("reward", {"value": True})) == 1.0


def test_messages_and_objects_are_read_from_their_own_spans_only() -> None:
    message = _span("agentlightning.message", {"agentlightning.message.body": "Hello"})
    literal = _span("agentlightning.object", {"agentlightning.object.literal": 3})
    composed = _span("agentlightning.object", {"agentlightning.object.json": '{"a": [1]}'})
    assert [get_message_value(span) for span in (message, literal)] == ["Hello", None]
    assert [get_object_value(span) for span in (message, literal, composed)] == [None, 3, {"a": [1]}]
