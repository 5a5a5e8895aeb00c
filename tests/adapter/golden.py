"""The golden fixtures as spans and calls, and helpers that build single spans."""

from __future__ import annotations

import json
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from agentlightning.adapter import LLMCall, llm_calls
from agentlightning.types import Span, TraceStatus

FOLDER = Path(__file__).parent / "fixtures"
_number = count(1)


@cache
def fixture(library: str) -> dict[str, list[dict[str, Any]]]:
    return json.loads((FOLDER / f"{library}.json").read_text())


SCENARIOS = list(fixture("wire"))


def spans_of(library: str, scenario: str) -> list[Span]:
    recorded = fixture(library)[scenario]
    return [Span(rollout_id="ro-1", attempt_id="at-1", sequence_id=n, **span) for n, span in enumerate(recorded, 1)]


def calls_of(library: str, scenario: str) -> list[LLMCall]:
    return llm_calls(spans_of(library, scenario))


def span(
    name: str,
    attributes: dict[str, Any] | None = None,
    *,
    within: Span | None = None,
    at: tuple[float, float] | None = None,
    error: str | None = None,
) -> Span:
    """Build a span of one trace. Without `at` its duration is zero, and it starts after the spans built before."""
    number = next(_number)
    built = Span.from_attributes(
        attributes={
            key: json.dumps(value) if isinstance(value, dict) else value for key, value in (attributes or {}).items()
        },
        rollout_id="ro-1",
        attempt_id="at-1",
        name=name,
        trace_id="a" * 32,
        span_id=f"{number:016x}",
        parent_id=within.span_id if within else None,
        sequence_id=number,
        start_time=at[0] if at else float(number),
        end_time=at[1] if at else float(number),
    )
    built.status = TraceStatus(status_code="ERROR", description=error) if error else TraceStatus(status_code="OK")
    return built


def wire_span(question: str, text: str | None, *, id: str | None = None, **more: Any) -> Span:
    """Build the span of a chat completion as the wire tap records it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    response = {"id": id or f"chatcmpl-{next(_number)}", "model": "m", "choices": [choice]}
    attributes: dict[str, Any] = {
        "url.path": "/v1/chat/completions",
        "agentlightning.request": {"model": "m", "messages": [{"role": "user", "content": question}]},
        **more.pop("attributes", {}),
    }
    if text is not None:
        attributes.setdefault("agentlightning.response", response)
    return span("openai.chat.completion", attributes, **more)
