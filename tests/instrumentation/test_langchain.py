"""LangChain's steps are found where OpenInference keeps them, and it may fail at telling."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from openai import OpenAI
from opentelemetry import trace

import agentlightning as agl

from .conftest import recorded

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


async def test_calls_and_operations_are_within_the_step_that_is_under_way(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recorded() as spans:
        step = trace.get_tracer("langchain").start_span("step")
        _steps(monkeypatch, lambda: step)
        client.chat.completions.create(model="m", messages=HELLO)
        with agl.operation(name="look up"):
            client.chat.completions.create(model="m", messages=HELLO)
        step.end()

    call, inner, operation, outer = spans
    assert (call.parent_id, operation.parent_id) == (outer.span_id, outer.span_id)
    assert inner.parent_id == operation.span_id


async def test_without_a_step_or_with_a_failure_calls_are_recorded_as_ever(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recorded() as spans:
        for current in (lambda: None, lambda: 1 / 0):
            _steps(monkeypatch, current)
            client.chat.completions.create(model="m", messages=HELLO)

    assert [span.parent_id for span in spans] == [None, None]


def _steps(monkeypatch: pytest.MonkeyPatch, current: Any) -> None:
    module = SimpleNamespace(get_current_span=current)
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.langchain", module)
