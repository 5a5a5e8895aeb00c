"""Redaction of API keys in the texts of spans."""

from __future__ import annotations

import json

import pytest

from agentlightning.emitter import emit_annotation, emit_exception
from agentlightning.redaction import redact
from agentlightning.tracer import OtelTracer


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("key sk-proj-a1B2c3D4e5", "key [redacted]"),
        ("Authorization: Bearer eyJhbGciOi.abc-123", "Authorization: [redacted]"),
        (f"authorization=Bearer%20agl-attempt-{'0a' * 24}", "authorization=Bearer%20[redacted]"),
        ("AIza" + "b" * 35, "[redacted]"),
        ("ghp_" + "c" * 36, "[redacted]"),
        ("hf_" + "d" * 34, "[redacted]"),
        ("risk-assessment-2024-final", "risk-assessment-2024-final"),
        ("the bearer of news", "the bearer of news"),
        ("sk-learn-pipelines", "sk-learn-pipelines"),
        ("\ud83d lone surrogate, Bearer abcdefgh1", "? lone surrogate, [redacted]"),
    ],
)
def test_keys_are_replaced_and_similar_words_are_not(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_redacted_json_is_still_valid() -> None:
    body = json.dumps({"a": "Bearer abcdefgh12345", "b": ["sk-12345678"]})
    assert json.loads(redact(body)) == {"a": "[redacted]", "b": ["[redacted]"]}


async def test_every_text_of_a_span_is_redacted() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("named sk-1234567890"):
        emit_annotation({"header": "Bearer abcdefgh12345", "list": ["a", "hf_" + "x" * 34]})
        emit_exception(ValueError("bad key sk-1234567890"))

    recorded = "".join(span.model_dump_json() for span in tracer.get_last_trace())
    assert recorded.count("[redacted]") >= 5
    assert not any(key in recorded for key in ("sk-1234567890", "abcdefgh12345", "hf_x"))
