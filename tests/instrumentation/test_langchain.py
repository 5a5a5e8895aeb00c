"""LangChain's current step, as OpenInference keeps it, is the parent of calls and operations."""

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


async def test_current_step_is_the_parent_of_calls_and_operations(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recorded() as spans:
        step = trace.get_tracer("langchain").start_span("step")
        _set_current_step(monkeypatch, lambda: step)
        client.chat.completions.create(model="m", messages=HELLO)
        with agl.operation(name="look up"):
            client.chat.completions.create(model="m", messages=HELLO)
        step.end()

    call, inner, operation, outer = spans
    assert (call.parent_id, operation.parent_id) == (outer.span_id, outer.span_id)
    assert inner.parent_id == operation.span_id


async def test_calls_without_a_step_or_with_a_failing_lookup_are_recorded(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recorded() as spans:
        for current in (lambda: None, lambda: 1 / 0):
            _set_current_step(monkeypatch, current)
            client.chat.completions.create(model="m", messages=HELLO)

    assert [span.parent_id for span in spans] == [None, None]


def _set_current_step(monkeypatch: pytest.MonkeyPatch, current: Any) -> None:
    module = SimpleNamespace(get_current_span=current)
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.langchain", module)
