"""Spans that user code records itself: operations and single moments."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ..instrumentation.context import parent_context
from ..types import Span, SpanCoreFields, TraceStatus
from ..types.spans import NANOSECONDS
from .scope import Scope


class ManualSpan:
    """A span from start to end; as a context manager it records an exception that leaves the block.

    With an OpenTelemetry tracer it is an ordinary span, visible to all span processors. Without one, or if a sampler
    has rejected it, it goes directly to the scope: samplers must not discard what user code emits.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, Any] | None,
        tracer: trace.Tracer | None,
        scope: Scope | None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> None:
        start_time = time.time() if start_time is None else start_time
        self.core = SpanCoreFields(name=name, attributes=dict(attributes or {}), start_time=start_time)
        """The fields recorded so far."""
        self._scope = scope
        self._end_time = end_time
        self._otel = tracer.start_span(name, parent_context(), start_time=_nanoseconds(start_time)) if tracer else None

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        self.core.attributes.update(attributes)

    def set_status(self, status: TraceStatus) -> None:
        """Set the status."""
        self.core.status = status

    def record_exception(self, error: BaseException) -> None:
        """Set an error status and record the exception."""
        self.set_status(TraceStatus(status_code="ERROR", description=f"{type(error).__name__}: {error}"))
        if self._otel and self._otel.is_recording():
            self._otel.record_exception(error)
        else:
            self.set_attributes(exception_attributes(error))

    def end(self, end_time: float | None = None) -> SpanCoreFields:
        """Finish the span; a repeated call does nothing."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
    """Return OpenTelemetry's attributes for an exception."""
    return {
        "exception.type": type(error).__qualname__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)
