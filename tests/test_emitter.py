"""Emitters: each creates a span with the recorded values."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.emitter import get_message_value, get_object_value, get_rewards_from_span
from agentlightning.errors import InvalidInput
from agentlightning.types import Span


class RecordedTrace:
    """The spans that a tracer has recorded."""

    def __init__(self, tracer: agl.Tracer) -> None:
        self._tracer = tracer

    @property
    def spans(self) -> list[Span]:
        return self._tracer.get_last_trace()

    @property
    def span(self) -> Span:
        [span] = self.spans
        return span


with_and_without_opentelemetry = pytest.mark.parametrize("trace", [agl.OtelTracer, agl.DummyTracer], indirect=True)


@pytest.fixture
async def trace(request: pytest.FixtureRequest) -> AsyncIterator[RecordedTrace]:
    tracer: agl.Tracer = getattr(request, "param", agl.OtelTracer)()
    async with tracer.trace_context():
        yield RecordedTrace(tracer)


@with_and_without_opentelemetry
async def test_reward_is_an_annotation_with_a_number(trace: RecordedTrace) -> None:
    returned = agl.emit_reward(1, attributes={"why": {"judge": "strict", "votes": [1, 2]}})

    assert (trace.span.name, trace.span.attributes) == (
        "agentlightning.annotation",
        {
            "agentlightning.reward.0.name": "primary",
            "agentlightning.reward.0.value": 1.0,
            "why.judge": "strict",
            "why.votes": [1, 2],
        },
    )
    assert returned.attributes == trace.span.attributes
    assert agl.find_final_reward(trace.spans) == 1.0


async def test_primary_reward_is_the_first_of_several(trace: RecordedTrace) -> None:
    agl.emit_reward({"style": 0.2, "truth": 0.9}, primary_key="truth")

    assert get_rewards_from_span(trace.span) == [("truth", 0.9), ("style", 0.2)]
    assert agl.get_reward_value(trace.span) == 0.9


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1.0", [1.0], object()])
async def test_reward_that_is_not_a_finite_number_is_rejected(trace: RecordedTrace, value: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a finite number"):
        agl.emit_reward(value)
    with pytest.raises(ValueError, match="must be a finite number"):
        agl.emit_reward({"a": 1.0, "b": value}, primary_key="a")
    assert trace.spans == []


@pytest.mark.parametrize("key", [None, "c"])
async def test_several_rewards_without_primary_key_are_rejected(trace: RecordedTrace, key: str | None) -> None:
    with pytest.raises(InvalidInput, match="set primary_key to one of a, b"):
        agl.emit_reward({"a": 1.0, "b": 2.0}, primary_key=key)


async def test_annotations_are_flattened(trace: RecordedTrace) -> None:
    agl.emit_annotation(
        {"a": {"b": {"c": 1}}, "list": ["x", "y"], "mixed": [1, "x", {"y": None, "z": 2}], "none": None}
    )

    assert trace.span.attributes == {
        "a.b.c": 1,
        "list": ["x", "y"],
        "mixed.0": 1,
        "mixed.1": "x",
        "mixed.2.z": 2,
    }


async def test_message_can_be_read_from_its_span(trace: RecordedTrace) -> None:
    agl.emit_message("Hello")

    assert trace.span.name == "agentlightning.message"
    assert get_message_value(trace.span) == "Hello"
    with pytest.raises(InvalidInput, match="not dict"):
        agl.emit_message({"not": "a string"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [1, 2.5, True, "text", {"a": [1, None, {"b": "c"}]}, [], None])
async def test_object_can_be_read_from_its_span(trace: RecordedTrace, value: Any) -> None:
    agl.emit_object(value)

    back = get_object_value(trace.span)
    assert (back, type(back)) == (value, type(value))
    assert trace.span.attributes["agentlightning.object.type"] == type(value).__name__


async def test_object_that_json_cannot_represent_is_rejected(trace: RecordedTrace) -> None:
    with pytest.raises(InvalidInput, match="the object"):
        agl.emit_object(object())


@with_and_without_opentelemetry
async def test_exception_is_recorded_as_an_error(trace: RecordedTrace) -> None:
    try:
        raise LookupError("no such page")
    except LookupError as error:
        agl.emit_exception(error, attributes={"page": 3})

    span = trace.span
    assert (span.name, span.status.status_code, span.status.description) == (
        "agentlightning.exception",
        "ERROR",
        "LookupError: no such page",
    )
    assert span.attributes["exception.type"] == "LookupError"
    assert span.attributes["exception.message"] == "no such page"
    assert "raise LookupError" in span.attributes["exception.stacktrace"]
    assert span.attributes["page"] == 3


@with_and_without_opentelemetry
async def test_operation_records_inputs_and_output_of_a_block(trace: RecordedTrace) -> None:
    with agl.operation(name="search", engine={"name": "grep"}) as search:
        search.set_input("needle", where=["hay", "stack"])
        agl.emit_message("looking")
        search.set_output({"found": 1})

    operation = next(span for span in trace.spans if span.name == "agentlightning.operation")
    assert operation.attributes == {
        "agentlightning.operation.name": "search",
        "engine.name": "grep",
        "agentlightning.operation.input.0": "needle",
        "agentlightning.operation.input.where": '["hay","stack"]',
        "agentlightning.operation.output": '{"found":1}',
    }
    assert operation.status.status_code == "OK"


async def test_each_call_of_a_decorated_function_is_an_operation(trace: RecordedTrace) -> None:
    @agl.operation
    def add(a: int, b: int = 2) -> int:
        "Adds."
        return a + b

    @agl.operation(name="wait", priority="high")
    async def wait(*, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    assert (add(1), add(b=1, a=1), await wait(seconds=0)) == (3, 2, "done")
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert [span.attributes["agentlightning.operation.name"] for span in trace.spans] == ["add", "add", "wait"]
    assert trace.spans[1].attributes["agentlightning.operation.input.b"] == 1
    assert trace.spans[2].attributes == {
        "agentlightning.operation.name": "wait",
        "priority": "high",
        "agentlightning.operation.input.seconds": 0,
        "agentlightning.operation.output": "done",
    }


@with_and_without_opentelemetry
async def test_operation_records_an_exception_and_raises_it(trace: RecordedTrace) -> None:
    @agl.operation
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        fail()

    assert (trace.span.status.status_code, trace.span.status.description) == ("ERROR", "ZeroDivisionError: by zero")


async def test_operation_accepts_arguments_of_any_type(trace: RecordedTrace) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "an odd one"

    @agl.operation
    def take(thing: Any) -> Any:
        return thing

    odd = Odd()
    assert take(odd) is odd
    assert trace.span.attributes["agentlightning.operation.input.thing"] == "an odd one"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        take()  # pyright: ignore[reportCallIssue]


def test_emitters_require_an_active_tracer() -> None:
    for say in (lambda: agl.emit_reward(1.0), lambda: agl.emit_message("x"), agl.operation(lambda: None)):
        with pytest.raises(RuntimeError, match="No tracer is active: emit"):
            say()


async def test_span_that_is_not_propagated_is_not_recorded(trace: RecordedTrace) -> None:
    reward = agl.emit_reward(1.0, propagate=False)
    with agl.operation(name="quiet", propagate=False) as quiet:
        quiet.set_output(1)

    assert agl.get_reward_value(reward) == 1.0
    assert (reward.status.status_code, reward.start_time) == ("OK", reward.end_time)
    assert trace.spans == []
