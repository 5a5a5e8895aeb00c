"""API keys are taken out of every text of every span."""

from __future__ import annotations

import json

import pytest

from agentlightning.emitter import emit_annotation, emit_exception
from agentlightning.redaction import redact
from agentlightning.tracer import OtelTracer


@pytest.mark.parametrize(
    ("text", "clean"),
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
        ("\ud83d half a pair, Bearer abcdefgh1", "? half a pair, [redacted]"),
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_json_stays_json_without_its_keys() -> None:
    body = json.dumps({"a": "Bearer abcdefgh12345", "b": ["sk-12345678"]})
    assert json.loads(redact(body)) == {"a": "[redacted]", "b": ["[redacted]"]}


async def test_whoever_says_it_keys_are_not_recorded() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("asked with sk-1234567890"):
        emit_annotation({"header": "Bearer abcdefgh12345", "list": ["a", "hf_" + "x" * 34]})
        emit_exception(ValueError("bad key sk-1234567890"))

    written = "".join(span.model_dump_json() for span in tracer.get_last_trace())
    assert written.count("[redacted]") >= 5
    assert not any(key in written for key in ("sk-1234567890", "abcdefgh12345", "hf_x"))
