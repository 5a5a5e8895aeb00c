"""Spans, and the triplets that adapters derive from them.

Spans have the same fields as in OpenTelemetry, but times are Unix timestamps in seconds.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, FailFast, Field

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext as OtelSpanContext

StatusCode = Literal["UNSET", "OK", "ERROR"]
Attributes = dict[str, Any]

NANOSECONDS = 1e9


class TraceStatus(BaseModel):
    """Outcome of the operation that a span records."""

    status_code: StatusCode = "UNSET"
    description: str | None = None


class SpanContext(BaseModel):
    """The ids by which a span can be referenced from any process."""

    trace_id: str
    span_id: str
    is_remote: bool = False
    trace_state: dict[str, str] = Field(default_factory=dict)


def trace_of(rollout_id: str, attempt_id: str) -> str:
    """Return the trace id of an attempt. All processes compute the same one, because it is a hash of both ids."""
    return hashlib.sha256(f"{rollout_id}/{attempt_id}".encode()).hexdigest()[:32]


class Event(BaseModel):
    """A named point in time within a span."""

    name: str
    attributes: Attributes = Field(default_factory=dict)
    timestamp: float | None = None


class Link(BaseModel):
    """A reference from one span to a related span."""

    context: SpanContext
    attributes: Attributes | None = None


class OtelResource(BaseModel):
    """Description of the process that created a span."""

    attributes: Attributes = Field(default_factory=dict)
    schema_url: str = ""


class SpanCoreFields(BaseModel):
    """A span that is not yet assigned to an attempt. Emitters return such spans, and agents may return them, too."""

    name: str
    status: TraceStatus = Field(default_factory=TraceStatus)
    attributes: Attributes = Field(default_factory=dict)
    start_time: float | None = None
    end_time: float | None = None


class Span(BaseModel):
    """One recorded step of an attempt."""

    rollout_id: str
    attempt_id: str
    sequence_id: int = Field(default=0, ge=0)
    """Position within the attempt, starting at 1. If it is 0 when the span arrives, the store assigns the next one."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    parent_id: str | None = None

    name: str
    status: TraceStatus = Field(default_factory=TraceStatus)
    attributes: Attributes = Field(default_factory=dict)
    events: Annotated[list[Event], FailFast()] = Field(default_factory=list[Event])
    links: Annotated[list[Link], FailFast()] = Field(default_factory=list[Link])

    start_time: float | None = None
    end_time: float | None = None

    context: SpanContext | None = None
    parent: SpanContext | None = None
    resource: OtelResource = Field(default_factory=OtelResource)

    def __str__(self) -> str:
        return f"Span(name={self.name!r}, attributes={self.attributes!r})"

    @classmethod
    def from_opentelemetry(
        cls, readable_span: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int = 0
    ) -> Span:
        """Convert an OpenTelemetry span. Times are converted to seconds. Attributes whose value is None are omitted."""
        context = readable_span.get_span_context()
        if context is None:
            raise ValueError(f"span {readable_span.name!r} has no context")
        parent = readable_span.parent
        return cls.model_construct(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=f"{context.trace_id:032x}",
            span_id=f"{context.span_id:016x}",
            parent_id=f"{parent.span_id:016x}" if parent else None,
            name=readable_span.name,
            status=TraceStatus.model_construct(
                status_code=readable_span.status.status_code.name, description=readable_span.status.description
            ),
            attributes=_attributes(readable_span.attributes),
            events=[
                Event(name=event.name, attributes=_attributes(event.attributes), timestamp=_seconds(event.timestamp))
                for event in readable_span.events
            ],
            links=[
                Link(context=_context(link.context), attributes=_attributes(link.attributes))
                for link in readable_span.links
            ],
            start_time=_seconds(readable_span.start_time),
            end_time=_seconds(readable_span.end_time),
            context=_context(context),
            parent=_context(parent) if parent else None,
            resource=OtelResource.model_construct(
                attributes=_attributes(readable_span.resource.attributes),
                schema_url=readable_span.resource.schema_url,
            ),
        )

    @classmethod
    def from_attributes(
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int = 0,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        status: TraceStatus | None = None,
        resource: OtelResource | None = None,
    ) -> Span:
        """Create a span with these attributes, except those whose value is None.

        By default, the trace and span ids are random, the start time is the current time, the end time equals the start
        time, and the status is OK.
        """
        from ..semconv import VIRTUAL

        start_time = time.time() if start_time is None else start_time
        return cls(
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            sequence_id=sequence_id,
            trace_id=trace_id or os.urandom(16).hex(),
            span_id=span_id or os.urandom(8).hex(),
            parent_id=parent_id,
            name=name or VIRTUAL,
            status=status or TraceStatus(status_code="OK"),
            attributes={key: value for key, value in attributes.items() if value is not None},
            start_time=start_time,
            end_time=start_time if end_time is None else end_time,
            resource=resource or OtelResource(),
        )

    @classmethod
    def from_core_fields(
        cls,
        core: SpanCoreFields,
        *,
        rollout_id: str,
        attempt_id: str,
        sequence_id: int = 0,
        trace_id: str | None = None,
        parent_id: str | None = None,
    ) -> Span:
        """Create a span with the fields of `core` for the given attempt."""
        return cls.from_attributes(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=trace_id,
            parent_id=parent_id,
            **dict(core),
        )


class Triplet(BaseModel):
    """One training example: prompt, response and reward."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NANOSECONDS


def _attributes(attributes: Mapping[str, Any] | None) -> Attributes:
    return {
        key: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value  # pyright: ignore[reportUnknownArgumentType]
        for key, value in (attributes or {}).items()
        if value is not None
    }


def _context(context: OtelSpanContext) -> SpanContext:
    return SpanContext.model_construct(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        is_remote=context.is_remote,
        trace_state=dict(context.trace_state),
    )
