"""Parsing of one span as an LLM call, with the readers of all notations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ... import semconv
from ...types import Span
from . import indexed, langfuse, logfire, openinference, opentelemetry, wire
from .attributes import from_json
from .view import LLMCall, combine

READERS: dict[str, Callable[[Span], LLMCall | None]] = {
    "wire": wire.read,
    "openinference": openinference.read,
    "opentelemetry": opentelemetry.read,
    "indexed": indexed.read,
    "logfire": logfire.read,
    "langfuse": langfuse.read,
}
"""By dialect, the most complete first. Another notation is one file beside these, and one entry here."""

RANK = {dialect: rank for rank, dialect in enumerate(READERS)}


def read(span: Span) -> LLMCall | None:
    """Parse the span as a call; None if it is something else."""
    views: list[LLMCall] = []
    for reader in READERS.values():
        view = reader(span)
        if view is None:
            continue
        views.append(view)
        if view.messages and view.output:  # less complete notations have nothing to add
            break
    return _with_span(combine(views), span) if views else None


def _with_span(call: LLMCall, span: Span) -> LLMCall:
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
