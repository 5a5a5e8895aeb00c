"""Scopes, which assign spans to attempts, and `ManualSpan`, a span recorded by user code.

A scope is stored in the OpenTelemetry context, so asyncio tasks, copied contexts and (with `CONTEXT_IN_THREADS`)
threads inherit it. This keeps the spans of concurrent rollouts apart. The rollout id and attempt id are also stored in
OpenTelemetry's baggage, so that propagators can pass them to other processes.
"""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, trace
from opentelemetry.trace import Status, StatusCode, Tracer as OtelTracer

from ..instrumentation.context import SCOPE, parent_context
from ..semconv import ATTEMPT_ID, ROLLOUT_ID
from ..types import Span, SpanCoreFields, TraceStatus, trace_of
from ..types.spans import NANOSECONDS
from .spans import FinishedSpan

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from ..store.contract import LightningStore
    from .pipeline import Pipeline


@dataclass(eq=False)
class Scope:
    """State of one trace context: the destination for its spans, and the spans that have finished so far."""

    rollout_id: str | None = None
    attempt_id: str | None = None
    store: LightningStore | None = None
    pipeline: Pipeline | None = None
    """Exports the spans to `store`. If the pipeline, the store or an id is None, spans are only kept in `finished`."""
    accepts_opentelemetry: bool = False
    """True if OpenTelemetry spans are recorded. If False, only spans that user code creates with this package are."""
    call_tracer: OtelTracer | None = None
    """OpenTelemetry tracer that creates the spans for LLM calls, or None if these calls are not recorded."""
    eager_decode: bool = False
    """True if a call's request and response bodies must be decoded before its span ends, because span processors from
    outside this package also read the span."""
    finished: list[FinishedSpan] = field(default_factory=list[FinishedSpan])

    @cached_property
    def trace_id(self) -> int:
        """The trace id for all spans in the scope, unless the user's own tracer provider generates the trace ids."""
        if self.rollout_id and self.attempt_id:
            return int(trace_of(self.rollout_id, self.attempt_id), 16)
        return secrets.randbits(128) or 1

    @cached_property
    def id_attributes(self) -> dict[str, str]:
        """The rollout id and attempt id as span attributes."""
        ids = {ROLLOUT_ID: self.rollout_id, ATTEMPT_ID: self.attempt_id}
        return {key: value for key, value in ids.items() if value is not None}

    def add(self, span: ReadableSpan | Span) -> None:
        """Record a finished span. Called in the agent's thread: never raises and blocks only if the queue is full."""
        finished = FinishedSpan(span, self.rollout_id or "", self.attempt_id or "")
        self.finished.append(finished)
        if self.pipeline and self.store and self.rollout_id and self.attempt_id:
            self.pipeline.put(finished, self.store)

    def to_context(self) -> Context:
        """Return a copy of the current OpenTelemetry context that contains this scope, and its ids as baggage."""
        result = context.set_value(SCOPE, self)
        for key, value in self.id_attributes.items():
            result = baggage.set_baggage(key, value, result)
        return result


def current_scope(of: Context | None = None) -> Scope | None:
    """Return the scope in a context (by default, the current context), or None if the context has no scope."""
    scope: Any = context.get_value(SCOPE, of)
    return scope


class ManualSpan:
    """A span that ends when `end` is called or, if used as a context manager, when the block ends.

    An exception that leaves the block is recorded on the span. If there is an OpenTelemetry tracer, the span is an
    ordinary OpenTelemetry span, visible to all span processors. If there is none, or if a sampler has rejected that
    span, the recorded fields are added directly to the scope: samplers must not discard spans that user code creates.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, Any] | None,
        tracer: OtelTracer | None,
        scope: Scope | None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> None:
        start_time = time.time() if start_time is None else start_time
        self.core = SpanCoreFields(name=name, attributes=dict(attributes or {}), start_time=start_time)
        """The span's fields recorded so far."""
        self._scope = scope
        self._end_time = end_time
        self._otel = tracer.start_span(name, parent_context(), start_time=_nanoseconds(start_time)) if tracer else None

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to the span. Existing attributes with the same names are replaced."""
        self.core.attributes.update(attributes)

    def set_status(self, status: TraceStatus) -> None:
        """Set the span's status."""
        self.core.status = status

    def record_exception(self, error: BaseException) -> None:
        """Record the exception on the span and set the span's status to ERROR."""
        self.set_status(TraceStatus(status_code="ERROR", description=f"{type(error).__name__}: {error}"))
        if self._otel and self._otel.is_recording():
            self._otel.record_exception(error)
        else:
            self.set_attributes(exception_attributes(error))

    def end(self, end_time: float | None = None) -> SpanCoreFields:
        """End the span and return its fields. Further calls only return the fields.

        `end_time` is a Unix time in seconds. It defaults to the constructor's `end_time` or else to the current time.
        """
        core = self.core
        if core.end_time is not None:
            return core
        end_time = self._end_time if end_time is None else end_time
        core.end_time = time.time() if end_time is None else end_time
        if core.status.status_code == "UNSET":
            core.status = TraceStatus(status_code="OK")
        if self._otel and self._otel.is_recording():
            self._otel.set_attributes(core.attributes)
            self._otel.set_status(Status(StatusCode[core.status.status_code], core.status.description))
            self._otel.end(_nanoseconds(core.end_time))
        elif self._scope:
            self._scope.add(self._to_span(self._scope))
        return core

    def __enter__(self) -> ManualSpan:
        if self._otel:
            self._current = trace.use_span(self._otel, record_exception=False, set_status_on_exception=False)
            self._current.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._otel:
            self._current.__exit__(None, None, None)
        if error is not None:
            self.record_exception(error)
        self.end()

    def _to_span(self, scope: Scope) -> Span:
        parent = trace.get_current_span().get_span_context()
        return Span.from_core_fields(
            self.core.model_copy(update={"attributes": {**scope.id_attributes, **self.core.attributes}}),
            rollout_id=scope.rollout_id or "",
            attempt_id=scope.attempt_id or "",
            trace_id=f"{scope.trace_id:032x}",
            parent_id=f"{parent.span_id:016x}" if parent.is_valid else None,
        )


def exception_attributes(error: BaseException) -> dict[str, Any]:
    """Return the type, message and stack trace of an exception as OpenTelemetry attributes."""
    return {
        "exception.type": type(error).__qualname__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)
