"""One span as an LLM call: the readers of every spelling, the richest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ... import semconv
from ...types import Span
from . import indexed, langfuse, logfire, openinference, opentelemetry, wire
from .attributes import from_json
from .view import LLMCall, merged

READERS: tuple[Callable[[Span], LLMCall | None], ...] = (
    wire.read,
    openinference.read,
    opentelemetry.read,
    indexed.read,
    logfire.read,
    langfuse.read,
)
"""To read another spelling, write one file beside these and put its `read` where it belongs."""

RANK = {"wire": 0, "openinference": 1, "opentelemetry": 2, "indexed": 3, "logfire": 4, "langfuse": 5}


def read(span: Span) -> LLMCall | None:
    """The span's call to a model; None of a span that is something else."""
    readings: list[LLMCall] = []
    for reader in READERS:
        reading = reader(span)
        if reading is None:
            continue
        readings.append(reading)
        if reading.messages and reading.output:  # poorer spellings have nothing to add
            break
    return _placed(merged(readings), span) if readings else None


def _placed(call: LLMCall, span: Span) -> LLMCall:
    attributes, failed = span.attributes, span.status.status_code == "ERROR"
    version = attributes.get(semconv.POLICY_VERSION)
    return replace(
        call,
        error=(span.status.description or "the call failed") if failed else None,
        resent=int(from_json(attributes.get("http.request.resend_count")) or 0),
        policy_version=None if version is None else str(version),
        span_ids=[span.span_id],
        names=[span.name],
        trace_id=span.trace_id,
        parent_id=span.parent_id,
        sequence_id=span.sequence_id,
        start_time=span.start_time,
        end_time=span.end_time,
    )
