"""Checks of a rollout's recorded spans against its actual calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentlightning import semconv
from agentlightning.adapter import LLMCall, find_final_reward, llm_calls
from agentlightning.types import Rollout, Span
from tests.frameworks.agents import Page
from tests.frameworks.scripted_answers import conversation
from tests.scripted_model import ScriptedModel


@dataclass(frozen=True)
class Expected:
    """The expected record of one rollout."""

    page: Page
    question: str
    solution: str
    reward: float


def problems(rollout: Rollout, spans: Sequence[Span], expected: Expected, model: ScriptedModel) -> list[str]:
    """Describe all deviations, each with the rollout's question."""
    found = [
        *_check_result(rollout, spans, expected),
        *_check_calls(spans, expected, model),
        *_check_tool(spans, expected),
    ]
    return [f"{expected.question} {problem}" for problem in found]


def _check_result(rollout: Rollout, spans: Sequence[Span], expected: Expected) -> Iterator[str]:
    if rollout.status != "succeeded":
        exceptions = [span.attributes for span in spans if "exception.type" in span.attributes]
        yield f"has status {rollout.status}: {[attributes.get('exception.stacktrace') for attributes in exceptions]}"
    if (reward := find_final_reward(spans)) != expected.reward:
        yield f"has the reward {reward}, not {expected.reward}"


def _check_calls(spans: Sequence[Span], expected: Expected, model: ScriptedModel) -> Iterator[str]:
    calls = llm_calls(spans)
    if len(calls) != expected.page.calls:
        yield f"has {len(calls)} calls, not {expected.page.calls}: {[(call.dialect, call.names) for call in calls]}"
        return
    received = [json.loads(call.raw) for call in model.calls if expected.question in conversation(call, model.calls)]
    if [_request(call, spans) for call in calls] != received:
        yield "has other requests than the model received, or in another order"
    if any(expected.question not in str(call.messages) for call in calls):
        yield "has a call of another rollout"
    if expected.solution not in str(calls[-1].output):
        yield f"ends with {calls[-1].output}"
    for call in calls:
        names = [span.name for span in _around(call, spans)]
        yield from (
            f"has a call that is not within {parent!r} but {names}"
            for parent in expected.page.parents
            if not any(name.startswith(parent) for name in names)
        )
    if len({span.trace_id for span in spans}) > 1:
        yield f"has several traces: {[(span.name, span.trace_id[-6:], span.parent_id) for span in spans]}"


def _request(call: LLMCall, spans: Sequence[Span]) -> object:
    bodies = [span.attributes.get(semconv.REQUEST) for span in spans if span.span_id in call.span_ids]
    return next((json.loads(body) for body in bodies if body), None)


def _around(call: LLMCall, spans: Sequence[Span]) -> Iterator[Span]:
    by_id = {span.span_id: span for span in spans}
    parent = call.parent_id
    while parent in by_id:
        yield by_id[parent]
        parent = by_id[parent].parent_id


def _check_tool(spans: Sequence[Span], expected: Expected) -> Iterator[str]:
    conversation = str([call.messages for call in llm_calls(spans)])
    if expected.solution not in conversation:
        yield "has no result of the tool in its conversation"
    if expected.page.tool is not None:
        tool_spans = [
            span for span in spans if expected.page.tool in (span.name, span.attributes.get(semconv.OPERATION_NAME))
        ]
        if not tool_spans:
            yield f"has no span of its tool among {sorted({span.name for span in spans})}"
        elif expected.page.tool_span_has_result and not any(
            expected.solution in str(span.attributes) for span in tool_spans
        ):
            yield f"has no result in the span of its tool: {[span.attributes for span in tool_spans]}"
