"""What user code says becomes spans of its rollout, as it was said."""

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


class Said:
    """A tracer, and the spans it has seen."""

    def __init__(self, tracer: agl.Tracer) -> None:
        self._tracer = tracer

    @property
    def spans(self) -> list[Span]:
        return self._tracer.get_last_trace()

    @property
    def span(self) -> Span:
        [span] = self.spans
        return span


@pytest.fixture(params=[agl.OtelTracer, agl.DummyTracer])
async def said(request: pytest.FixtureRequest) -> AsyncIterator[Said]:
    tracer: agl.Tracer = request.param()
    async with tracer.trace_context():
        yield Said(tracer)


async def test_a_reward_is_an_annotation_with_a_number(said: Said) -> None:
    returned = agl.emit_reward(1, attributes={"why": {"judge": "strict", "votes": [1, 2]}})

    assert (said.span.name, said.span.attributes) == (
        "agentlightning.annotation",
        {
            "agentlightning.reward.0.name": "primary",
            "agentlightning.reward.0.value": 1.0,
            "why.judge": "strict",
            "why.votes": [1, 2],
        },
    )
    assert returned.attributes == said.span.attributes
    assert agl.find_final_reward(said.spans) == 1.0


async def test_several_rewards_name_the_one_that_counts(said: Said) -> None:
    agl.emit_reward({"style": 0.2, "truth": 0.9}, primary_key="truth")

    assert get_rewards_from_span(said.span) == [("truth", 0.9), ("style", 0.2)]
    assert agl.get_reward_value(said.span) == 0.9


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "1.0", [1.0], object()])
async def test_what_is_no_finite_number_is_no_reward(said: Said, bad: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a finite number"):
        agl.emit_reward(bad)
    with pytest.raises(ValueError, match="must be a finite number"):
        agl.emit_reward({"a": 1.0, "b": bad}, primary_key="a")
    assert said.spans == []


@pytest.mark.parametrize("key", [None, "c"])
async def test_several_rewards_without_a_primary_are_refused(said: Said, key: str | None) -> None:
    with pytest.raises(InvalidInput, match="primary_key must be one of a, b"):
        agl.emit_reward({"a": 1.0, "b": 2.0}, primary_key=key)


async def test_annotations_are_flattened(said: Said) -> None:
    agl.emit_annotation(
        {"a": {"b": {"c": 1}}, "list": ["x", "y"], "mixed": [1, "x", {"y": None, "z": 2}], "none": None}
    )

    assert said.span.attributes == {
        "a.b.c": 1,
        "list": ["x", "y"],
        "mixed.0": 1,
        "mixed.1": "x",
        "mixed.2.z": 2,
    }


async def test_a_message_is_read_back(said: Said) -> None:
    agl.emit_message("Hello")

    assert said.span.name == "agentlightning.message"
    assert get_message_value(said.span) == "Hello"
    with pytest.raises(InvalidInput, match="not dict"):
        agl.emit_message({"not": "a string"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [1, 2.5, True, "text", {"a": [1, None, {"b": "c"}]}, [], None])
async def test_an_object_is_read_back_as_it_was(said: Said, value: Any) -> None:
    agl.emit_object(value)

    back = get_object_value(said.span)
    assert (back, type(back)) == (value, type(value))
    assert said.span.attributes["agentlightning.object.type"] == type(value).__name__


async def test_an_object_that_json_cannot_hold_is_refused(said: Said) -> None:
    with pytest.raises(InvalidInput, match="the object"):
        agl.emit_object(object())


async def test_an_exception_is_an_error_span(said: Said) -> None:
    try:
        raise LookupError("no such page")
    except LookupError as error:
        agl.emit_exception(error, attributes={"page": 3})

    span = said.span
    assert (span.name, span.status.status_code, span.status.description) == (
        "agentlightning.exception",
        "ERROR",
        "LookupError: no such page",
    )
    assert span.attributes["exception.type"] == "LookupError"
    assert span.attributes["exception.message"] == "no such page"
    assert "raise LookupError" in span.attributes["exception.stacktrace"]
    assert span.attributes["page"] == 3


async def test_an_operation_around_a_block_holds_what_happens_in_it(said: Said) -> None:
    with agl.operation(name="search", engine={"name": "grep"}) as search:
        search.set_input("needle", where=["hay", "stack"])
        agl.emit_message("looking")
        search.set_output({"found": 1})

    operation = next(span for span in said.spans if span.name == "agentlightning.operation")
    assert operation.attributes == {
        "agentlightning.operation.name": "search",
        "engine.name": "grep",
        "agentlightning.operation.input.0": "needle",
        "agentlightning.operation.input.where": '["hay","stack"]',
        "agentlightning.operation.output": '{"found":1}',
    }
    assert operation.status.status_code == "OK"


async def test_a_decorated_function_is_an_operation_each_time(said: Said) -> None:
    @agl.operation
    def add(a: int, b: int = 2) -> int:
        "Adds."
        return a + b

    @agl.operation(name="wait", patience="long")
    async def wait(*, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    assert (add(1), add(b=1, a=1), await wait(seconds=0)) == (3, 2, "done")
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert [span.attributes["agentlightning.operation.name"] for span in said.spans] == ["add", "add", "wait"]
    assert said.spans[1].attributes["agentlightning.operation.input.b"] == 1
    assert said.spans[2].attributes == {
        "agentlightning.operation.name": "wait",
        "patience": "long",
        "agentlightning.operation.input.seconds": 0,
        "agentlightning.operation.output": "done",
    }


async def test_an_operation_that_raises_says_so_and_lets_it_pass(said: Said) -> None:
    @agl.operation
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        fail()

    assert (said.span.status.status_code, said.span.status.description) == ("ERROR", "ZeroDivisionError: by zero")


async def test_an_operation_records_any_arguments_without_breaking_the_call(said: Said) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "an odd one"

    @agl.operation
    def take(thing: Any) -> Any:
        return thing

    odd = Odd()
    assert take(odd) is odd
    assert said.span.attributes["agentlightning.operation.input.thing"] == "an odd one"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        take()  # pyright: ignore[reportCallIssue]


def test_without_an_active_tracer_it_says_so() -> None:
    for say in (lambda: agl.emit_reward(1.0), lambda: agl.emit_message("x"), agl.operation(lambda: None)):
        with pytest.raises(RuntimeError, match="No tracer is active: emit"):
            say()


async def test_what_is_not_propagated_is_kept_nowhere(said: Said) -> None:
    reward = agl.emit_reward(1.0, propagate=False)
    with agl.operation(name="quiet", propagate=False) as quiet:
        quiet.set_output(1)

    assert agl.get_reward_value(reward) == 1.0
    assert (reward.status.status_code, reward.start_time) == ("OK", reward.end_time)
    assert said.spans == []
