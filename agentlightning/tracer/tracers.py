"""The available tracers, from the one that records least to the one that records most, and their tracer provider.

If the user has configured an OpenTelemetry tracer provider, the tracers use it. Otherwise, this package's own provider
becomes the global one. Our span processor is added once to each provider that is used. It need not be removed, because
it ignores spans that start outside of a trace context.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from ..instrumentation import AGENTOPS, CONTEXT_IN_THREADS, OPENINFERENCE, PYDANTIC_AI, WIRE_TAP, Instrumentation
from ..instrumentation.llm_call import close_open_calls
from .base import Tracer
from .pipeline import flush_all
from .scope import Scope, current_scope

if TYPE_CHECKING:
    from ..store.contract import LightningStore

logger = logging.getLogger("agentlightning.tracer")


class DummyTracer(Tracer):
    """Records rewards and the other spans that user code emits, but neither LLM calls nor OpenTelemetry spans.

    Does not create OpenTelemetry spans, does not patch any library, and works without a store.
    """


class OtelTracer(Tracer):
    """Records every OpenTelemetry span that starts within its trace contexts. Does not patch any library."""

    def otel_tracer(self) -> trace.Tracer:
        """Return a tracer from the process's tracer provider, which is the user's provider or ours."""
        return _tracers[_provider()]

    def has_other_processors(self) -> bool:
        """Return True if the tracer provider has, or may have, span processors from outside this package."""
        found = _provider()
        return found.has_other_processors if isinstance(found, _DefaultProvider) else True


class LightningTracer(OtelTracer):
    """The default tracer.

    Records LLM calls from any SDK with the wire tap, which patches the HTTP libraries that SDKs use. Also records spans
    from PydanticAI and from installed OpenInference instrumentors, and every other OpenTelemetry span that starts
    within its trace contexts.
    """

    def instrumentations(self) -> list[Instrumentation]:
        """Return the instrumentation for context propagation to threads, the wire tap, OpenInference and PydanticAI."""
        return [CONTEXT_IN_THREADS, WIRE_TAP, OPENINFERENCE, PYDANTIC_AI]

    def on_exit(self, scope: Scope) -> None:
        """End the spans for LLM calls whose streamed responses the agent has neither read to the end nor closed."""
        close_open_calls(lambda span_id: _PROCESSOR.scope_of(span_id) is scope)


class AgentOpsTracer(LightningTracer):
    """A `LightningTracer` that also uses the AgentOps SDK.

    The SDK records calls to agent frameworks, LLM SDKs, and functions with AgentOps' decorators. If both AgentOps and
    the wire tap record an LLM call, the result is a single span. AgentOps' service is never contacted, and no AgentOps
    API key is needed. If the extra `[agentops]` is not installed, this tracer logs a message once and works like its
    base class.
    """

    _missing_logged = False

    def instrumentations(self) -> list[Instrumentation]:
        """Return the instrumentation of `LightningTracer`, and AgentOps if it is installed."""
        return [*super().instrumentations(), *([AGENTOPS] if AGENTOPS.is_installed else [])]

    def init_worker(self, worker_id: int | str = 0, store: LightningStore | None = None) -> None:
        """Register a worker, as in the base class, and log whether AgentOps is used."""
        super().init_worker(worker_id, store)
        if AGENTOPS.is_installed:
            logger.info("[Worker %s] AgentOps client initialized.", worker_id)
        elif not AgentOpsTracer._missing_logged:
            AgentOpsTracer._missing_logged = True
            logger.info(
                "[Worker %s] The AgentOps SDK is not installed (pip install 'agentlightning[agentops]'); "
                "LLM calls are recorded by the built-in instrumentation.",
                worker_id,
            )


# The tracer provider


def _provider() -> TracerProvider:
    """Return the process's tracer provider. If there is none, create ours and make it the global provider."""
    with _lock:
        found = trace.get_tracer_provider()
        if not isinstance(found, TracerProvider):
            found = _default_provider()
        if found not in _tracers:
            found.add_span_processor(_PROCESSOR)
            _tracers[found] = found.get_tracer("agentlightning")
        return found


class _ScopeProcessor(SpanProcessor):
    """Adds a scope's ids to each span that starts within the scope. Passes the span to the scope when the span ends."""

    def __init__(self) -> None:
        self._open: weakref.WeakValueDictionary[int, Scope] = weakref.WeakValueDictionary()
        """Scope of each open span, by span id. Needed because `on_end` receives only a copy of the span, without the
        context in which it started. The references are weak, so that the entry for a span that never ends disappears
        together with the span's scope."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Add the ids of the scope to the span, and remember the scope until the span ends."""
        scope = self._find_scope(span, parent_context)
        if scope is None or not scope.accepts_opentelemetry:
            return
        if scope.id_attributes:
            span.set_attributes(scope.id_attributes)
        self._open[span.get_span_context().span_id] = scope

    def on_end(self, span: ReadableSpan) -> None:
        """Pass the span to its scope. This takes only a few microseconds in the agent's thread."""
        context = span.get_span_context()
        if context and (scope := self._open.pop(context.span_id, None)):
            scope.add(span)

    def shutdown(self) -> None:
        """Do nothing: each pipeline is stopped by its tracer, not by the provider."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until all finished spans have been stored or dropped.

        Returns False if this takes longer than `timeout_millis` for any pipeline.
        """
        return flush_all(timeout_millis / 1000)

    def scope_of(self, span_id: int) -> Scope | None:
        """Return the scope of a span that has not ended."""
        return self._open.get(span_id)

    def _find_scope(self, span: Span, parent_context: Context | None) -> Scope | None:
        if scope := current_scope(parent_context):
            return scope
        # A library may pass a context that does not contain a scope. The span then belongs to its parent span's scope.
        if span.parent and (scope := self.scope_of(span.parent.span_id)):
            return scope
        return current_scope(get_current())


class _ScopeIdGenerator(RandomIdGenerator):
    """Generates the same trace id for all spans in a scope."""

    def generate_trace_id(self) -> int:
        scope = current_scope()
        return scope.trace_id if scope else super().generate_trace_id()


class _DefaultProvider(TracerProvider):
    """This package's own tracer provider. It tracks whether span processors other than ours have been added."""

    has_other_processors = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.has_other_processors = self.has_other_processors or span_processor is not _PROCESSOR
        super().add_span_processor(span_processor)


def _default_provider() -> TracerProvider:
    global _default
    if _default is None:
        # By default, OpenTelemetry keeps only the newest 128 attributes of a span. A long conversation needs more.
        limits = SpanLimits(max_attributes=SpanLimits.UNSET, max_span_attributes=SpanLimits.UNSET)
        _default = _DefaultProvider(
            sampler=ALWAYS_ON, id_generator=_ScopeIdGenerator(), span_limits=limits, shutdown_on_exit=False
        )
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(_default)
    return _default


_PROCESSOR = _ScopeProcessor()
_tracers: weakref.WeakKeyDictionary[TracerProvider, trace.Tracer] = weakref.WeakKeyDictionary()
"""One tracer for each provider that has our span processor. Cached, because creating a tracer takes as long as
recording a span."""
_default: TracerProvider | None = None
_lock = threading.Lock()
