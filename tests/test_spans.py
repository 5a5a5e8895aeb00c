"""The `Span` type: conversion from OpenTelemetry, creation, and text forms."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link as OtelLink,
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from pydantic import ValidationError

from agentlightning import types
from agentlightning.types import Span, SpanCoreFields, TraceStatus

REMOTE = SpanContext(
    trace_id=0xABC,
    span_id=0xDEF,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("vendor", "1")]),
)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> Any:
    provider = TracerProvider(resource=Resource({"service.name": "test"}, "https://schema"), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    yield provider.get_tracer("tests")
    provider.shutdown()


def test_str_of_a_span_is_that_of_the_tutorial() -> None:
    span = Span.from_attributes(name="reward", attributes={"value": 0.95})

    assert str(span) == f"{span}" == "Span(name='reward', attributes={'value': 0.95})"
    assert "\n  - ".join(str(each) for each in [span, span]).count("Span(name='reward'") == 2


def test_repr_of_a_span_has_all_fields() -> None:
    span = Span.from_attributes(name="reward", attributes={"value": 0.95}, rollout_id="ro-1", attempt_id="at-1")

    assert set(re.findall(r"(\w+)=", repr(span))) >= {"rollout_id", "attempt_id", "trace_id", "span_id", "start_time"}


def test_conversion_from_opentelemetry_keeps_all_fields_with_times_in_seconds(
    tracer: Any, exported: InMemorySpanExporter
) -> None:
    remote = set_span_in_context(NonRecordingSpan(REMOTE))
    span = tracer.start_span(
        "call",
        context=remote,
        start_time=1_500_000_000,
        attributes={"text": "a", "number": 1, "share": 0.5, "yes": True, "list": ("a", "b"), "numbers": [1, 2]},
        links=[OtelLink(REMOTE, {"why": "retry"})],
    )
    span.add_event("started", {"n": 1}, timestamp=1_750_000_000)
    span.set_status(Status(StatusCode.ERROR, "it failed"))
    span.end(end_time=2_250_000_000)

    (readable,) = exported.get_finished_spans()
    own = readable.get_span_context()
    assert own

    assert Span.from_opentelemetry(readable, "ro-1", "at-1", 3) == Span(
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=3,
        trace_id="00000000000000000000000000000abc",
        span_id=f"{own.span_id:016x}",
        parent_id="0000000000000def",
        name="call",
        status=TraceStatus(status_code="ERROR", description="it failed"),
        attributes={"text": "a", "number": 1, "share": 0.5, "yes": True, "list": ["a", "b"], "numbers": [1, 2]},
        events=[types.Event(name="started", attributes={"n": 1}, timestamp=1.75)],
        links=[
            types.Link(
                context=types.SpanContext(
                    trace_id="00000000000000000000000000000abc",
                    span_id="0000000000000def",
                    is_remote=True,
                    trace_state={"vendor": "1"},
                ),
                attributes={"why": "retry"},
            )
        ],
        start_time=1.5,
        end_time=2.25,
        context=types.SpanContext(
            trace_id="00000000000000000000000000000abc",
            span_id=f"{own.span_id:016x}",
            is_remote=False,
            trace_state={"vendor": "1"},
        ),
        parent=types.SpanContext(
            trace_id="00000000000000000000000000000abc",
            span_id="0000000000000def",
            is_remote=True,
            trace_state={"vendor": "1"},
        ),
        resource=types.OtelResource(attributes={"service.name": "test"}, schema_url="https://schema"),
    )


def test_conversion_from_opentelemetry_keeps_parents(tracer: Any, exported: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("parent"), tracer.start_as_current_span("child"):
        pass

    child, parent = (Span.from_opentelemetry(span, "ro-1", "at-1") for span in exported.get_finished_spans())

    assert (child.name, child.parent_id, child.trace_id) == ("child", parent.span_id, parent.trace_id)
    assert (parent.parent_id, parent.parent, parent.sequence_id) == (None, None, 0)
    assert re.fullmatch(r"[0-9a-f]{32}", parent.trace_id)
    assert re.fullmatch(r"[0-9a-f]{16}", parent.span_id)


def test_conversion_from_opentelemetry_keeps_exceptions(tracer: Any, exported: InMemorySpanExporter) -> None:
    with pytest.raises(RuntimeError), tracer.start_as_current_span("call"):
        raise RuntimeError("it failed")

    (readable,) = exported.get_finished_spans()
    span = Span.from_opentelemetry(readable, "ro-1", "at-1")

    assert span.status == TraceStatus(status_code="ERROR", description="RuntimeError: it failed")
    assert [(event.name, event.attributes["exception.message"]) for event in span.events] == [
        ("exception", "it failed")
    ]


def test_converted_span_survives_json_and_validation(tracer: Any, exported: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("call", attributes={"list": ["a"]}, links=[OtelLink(REMOTE)]) as span:
        span.add_event("e")

    (readable,) = exported.get_finished_spans()
    span = Span.from_opentelemetry(readable, "ro-1", "at-1")

    assert Span.model_validate_json(span.model_dump_json()) == span
    assert Span.model_validate(span.model_dump()) == span


def test_attributes_that_are_none_are_dropped() -> None:
    readable = ReadableSpan("call", context=REMOTE, attributes={"kept": 0, "empty": "", "none": None})  # type: ignore[dict-item]

    span = Span.from_opentelemetry(readable, "ro-1", "at-1")

    assert span.attributes == {"kept": 0, "empty": ""}
    assert (span.start_time, span.end_time, span.status) == (None, None, TraceStatus())


def test_span_without_context_is_rejected_by_name() -> None:
    with pytest.raises(ValueError, match="'orphan' has no context"):
        Span.from_opentelemetry(ReadableSpan("orphan"), "ro-1", "at-1")


def test_from_attributes_generates_missing_fields() -> None:
    before = time.time()
    first, second = (Span.from_attributes(attributes={"a": 1, "none": None}) for _ in range(2))
    after = time.time()

    assert re.fullmatch(r"[0-9a-f]{32}", first.trace_id)
    assert re.fullmatch(r"[0-9a-f]{16}", first.span_id)
    assert len({first.trace_id, second.trace_id, first.span_id, second.span_id}) == 4
    assert first.start_time is not None
    assert before <= first.start_time <= after
    assert first == Span(
        rollout_id="",
        attempt_id="",
        sequence_id=0,
        trace_id=first.trace_id,
        span_id=first.span_id,
        name="agentlightning.virtual",
        status=TraceStatus(status_code="OK"),
        attributes={"a": 1},
        start_time=first.start_time,
        end_time=first.start_time,
    )


def test_from_attributes_keeps_given_fields() -> None:
    fields: dict[str, Any] = {
        "attributes": {"a": 1},
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "sequence_id": 7,
        "name": "mine",
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "parent_id": "ef" * 8,
        "start_time": 0.0,
        "end_time": 5.0,
        "status": TraceStatus(status_code="ERROR", description="no"),
        "resource": types.OtelResource(attributes={"pid": 1}),
    }

    assert Span.from_attributes(**fields) == Span(**fields)


def test_from_core_fields_adds_the_ids() -> None:
    core = SpanCoreFields(name="mine", attributes={"a": 1}, start_time=1.0, end_time=2.0)

    span = Span.from_core_fields(core, rollout_id="ro-1", attempt_id="at-1", sequence_id=2, parent_id="ef" * 8)

    assert span == Span(
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=2,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id="ef" * 8,
        name="mine",
        status=TraceStatus(),
        attributes={"a": 1},
        start_time=1.0,
        end_time=2.0,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("sequence_id", -1), ("name", None), ("attributes", ["a"]), ("status", {"status_code": "FINE"}),
     ("start_time", "noon"), ("events", [{}]), ("links", [{"context": {}}])],
)  # fmt: skip
def test_invalid_span_is_rejected_with_the_field_name(field: str, value: Any) -> None:
    span = Span.from_attributes(attributes={}).model_dump()

    with pytest.raises(ValidationError, match=field):
        Span.model_validate({**span, field: value})
