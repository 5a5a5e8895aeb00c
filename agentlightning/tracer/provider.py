"""Where spans come from: the process's OpenTelemetry tracer provider, with our processor on it.

A provider that the user has set up is used as it is; else ours becomes the global one. The processor is added once a
provider and stays: it only minds spans that begin within a scope.
"""

from __future__ import annotations

import threading
import weakref

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from .pipeline import flush_everything
from .scope import Scope, current_scope

_TRACER_NAME = "agentlightning"


def provider() -> TracerProvider:
    """The process's tracer provider, made and set as the global one if there was none."""
    with _lock:
        found = trace.get_tracer_provider()
        if not isinstance(found, TracerProvider):
            found = _own()
        if found not in _with_processor:
            found.add_span_processor(PROCESSOR)
            _with_processor.add(found)
        return found


def has_guests() -> bool:
    """Whether the user's own processors listen to the provider too."""
    found = provider()
    return found.has_guests if isinstance(found, _OwnProvider) else True


def otel_tracer() -> trace.Tracer:
    """What makes our own spans."""
    found = provider()
    made = _tracers.get(found)
    if made is None:  # kept, since making one costs as much as a span
        made = _tracers[found] = found.get_tracer(_TRACER_NAME)
    return made


class ScopeProcessor(SpanProcessor):
    """Stamps spans with the ids of their scope as they start, and gives them to it as they end."""

    def __init__(self) -> None:
        self._open: weakref.WeakValueDictionary[int, Scope] = weakref.WeakValueDictionary()
        """By span id: on its end a span is only a copy, with neither its context nor all its attributes. Weak, so that
        spans which never end are forgotten with their scope."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember whose span it is."""
        scope = self._scope_of(span, parent_context)
        if scope is None or not scope.takes_opentelemetry:
            return
        if scope.stamp:
            span.set_attributes(scope.stamp)
        self._open[span.get_span_context().span_id] = scope

    def on_end(self, span: ReadableSpan) -> None:
        """Hand it to its scope. Costs the agent's thread a few microseconds."""
        context = span.get_span_context()
        if context and (scope := self._open.pop(context.span_id, None)):
            scope.add(span)

    def shutdown(self) -> None:
        """Nothing to let go of: pipelines end with their tracers."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until what has ended is stored."""
        return flush_everything(timeout_millis / 1000)

    def scope_of(self, span_id: int) -> Scope | None:
        """The scope of a span that has not ended yet."""
        return self._open.get(span_id)

    def _scope_of(self, span: Span, parent_context: Context | None) -> Scope | None:
        if scope := current_scope(parent_context):
            return scope
        # A library may build contexts of its own, without what is in ours: its spans belong to their parents' scope.
        if span.parent and (found := self.scope_of(span.parent.span_id)):
            return found
        return current_scope(get_current())


class _OneTraceAScope(RandomIdGenerator):
    def generate_trace_id(self) -> int:
        scope = current_scope()
        return scope.trace_id if scope else super().generate_trace_id()


class _OwnProvider(TracerProvider):
    """Knows whether anybody but us listens."""

    has_guests = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.has_guests = self.has_guests or span_processor is not PROCESSOR
        super().add_span_processor(span_processor)


def _own() -> TracerProvider:
    global _ours
    if _ours is None:
        # OpenTelemetry keeps 128 attributes a span and forgets the oldest: too few for a long conversation.
        limits = SpanLimits(max_attributes=SpanLimits.UNSET, max_span_attributes=SpanLimits.UNSET)
        _ours = _OwnProvider(
            sampler=ALWAYS_ON, id_generator=_OneTraceAScope(), span_limits=limits, shutdown_on_exit=False
        )
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(_ours)
    return _ours


PROCESSOR = ScopeProcessor()
_with_processor: weakref.WeakSet[TracerProvider] = weakref.WeakSet()
_tracers: weakref.WeakKeyDictionary[TracerProvider, trace.Tracer] = weakref.WeakKeyDictionary()
_ours: TracerProvider | None = None
_lock = threading.Lock()
