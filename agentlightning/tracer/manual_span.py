"""A span that we record ourselves: what user code says, as an operation or a single moment."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ..instrumentation import langchain
from ..types import Span, SpanCoreFields, TraceStatus
from ..types.spans import NANOSECONDS
from .scope import Scope


class Recording:
    """A span from its start to its end; a context manager that notes an exception passing through.

    With an OpenTelemetry tracer it is an ordinary span for everybody who listens there. Without one, or when a sampler
    has decided against it, it goes straight to the scope: what user code says is not to be sampled away.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, Any] | None,
        *,
        tracer: trace.Tracer | None,
        scope: Scope | None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> None:
        self._core = SpanCoreFields(
            name=name, attributes=dict(attributes or {}), start_time=time.time() if start_time is None else start_time
        )
        self._scope = scope
        self._end_time = end_time
        begun = _nanoseconds(self._core.start_time)
        self._otel = tracer.start_span(name, langchain.around(), start_time=begun) if tracer else None

    @property
    def span(self) -> SpanCoreFields:
        """What has been recorded so far."""
        return self._core

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add to what is known of the span."""
        self._core.attributes.update(attributes)

    def set_status(self, status: TraceStatus) -> None:
        """Say how it ended."""
        self._core.status = status

    def record_exception(self, error: BaseException) -> None:
        """Note that this went wrong in it."""
        self.set_status(TraceStatus(status_code="ERROR", description=f"{type(error).__name__}: {error}"))
        if self._otel and self._otel.is_recording():
            self._otel.record_exception(error)
        else:
            self.set_attributes(exception_attributes(error))

    def end(self, end_time: float | None = None) -> SpanCoreFields:
        """Record it, once."""
        core = self._core
        if core.end_time is not None:
            return core
        end_time = self._end_time if end_time is None else end_time
        core.end_time = time.time() if end_time is None else end_time
        if core.status.status_code == "UNSET":
            core.status = TraceStatus(status_code="OK")
        if self._otel and self._otel.is_recording():
            self._end_otel(self._otel)
        elif self._scope:
            self._scope.add(self._as_ours(self._scope))
        return core

    def __enter__(self) -> Recording:
        if self._otel:
            self._current = trace.use_span(self._otel, record_exception=False, set_status_on_exception=False)
            self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._otel:
            self._current.__exit__(None, None, None)
        if error is not None:
            self.record_exception(error)
        self.end()

    def _end_otel(self, otel: trace.Span) -> None:
        core = self._core
        otel.set_attributes(core.attributes)
        otel.set_status(Status(StatusCode[core.status.status_code], core.status.description))
        otel.end(_nanoseconds(core.end_time))

    def _as_ours(self, scope: Scope) -> Span:
        parent = trace.get_current_span().get_span_context()
        return Span.from_core_fields(
            self._core.model_copy(update={"attributes": {**scope.stamp, **self._core.attributes}}),
            rollout_id=scope.rollout_id or "",
            attempt_id=scope.attempt_id or "",
            trace_id=f"{scope.trace_id:032x}",
            parent_id=f"{parent.span_id:016x}" if parent.is_valid else None,
        )


def exception_attributes(error: BaseException) -> dict[str, Any]:
    """OpenTelemetry's attributes for an exception."""
    return {
        "exception.type": type(error).__qualname__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * NANOSECONDS)
