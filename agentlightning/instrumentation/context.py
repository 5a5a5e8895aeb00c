"""Recording context: the entries in the OpenTelemetry context that determine whether and how a call is recorded.

Python starts new threads with an empty context, so an agent's calls in a `Thread` or a `ThreadPoolExecutor` would not
be recorded. `CONTEXT_IN_THREADS` propagates the context to both.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from functools import wraps
from typing import Any, Final, Protocol

from opentelemetry import context, trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.trace import Span, Tracer

from .patches import Instrumentation, Patch

logger = logging.getLogger("agentlightning.instrumentation")

SCOPE: Final = "agentlightning.scope"
"""Context key for the scope, the object with which a tracer assigns new spans to an attempt. Set by the tracer."""

CALL_SPAN: Final = "agentlightning.call_span"
"""Context key for the span that third-party instrumentation, applied by this package, has created for an LLM call."""

SUPPRESSED: Final = context._SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage]
"""OpenTelemetry's context key that exporters and other code set to prevent their own calls from being recorded."""

_SUPPRESSED_OLD: Final = "suppress_instrumentation"
"""Context key that older instrumentation libraries set for the same purpose."""

_LANGCHAIN_INSTRUMENTOR: Final = "openinference.instrumentation.langchain"

IN_REQUEST: Final = ContextVar("agentlightning_in_request", default=False)
"""True while a patched HTTP library is sending a recorded request. It prevents the request from being recorded again if
that library sends it through another patched library."""


class RecordingContext(Protocol):
    """The attributes of a scope that instrumentation reads."""

    call_tracer: Tracer | None
    """OpenTelemetry tracer that creates the spans for LLM calls, or None if these calls are not recorded."""
    eager_decode: bool
    """True if a call's request and response bodies must be decoded before its span ends, because span processors from
    outside this package also read the span."""


def recording_context() -> RecordingContext | None:
    """Return the scope in the current OpenTelemetry context, or None if calls in this context are not recorded."""
    current = context.get_current()
    scope: RecordingContext | None = current.get(SCOPE)  # pyright: ignore[reportAssignmentType]
    if scope is None or scope.call_tracer is None or current.get(SUPPRESSED) or current.get(_SUPPRESSED_OLD):
        return None
    return scope


def parent_context() -> OtelContext | None:
    """Return the context that contains the parent of a new span, or None to use the current OpenTelemetry context.

    OpenInference does not store the span of LangChain's current step in the OpenTelemetry context. If that span started
    after the current span of the OpenTelemetry context, it becomes the parent of the new span.
    """
    instrumentor: Any = sys.modules.get(_LANGCHAIN_INSTRUMENTOR)
    if instrumentor is None:
        return None
    try:
        step = instrumentor.get_current_span()
    except Exception:
        logger.debug("LangChain's current step is unknown", exc_info=True)
        return None
    if step is None or _start_time(step) < _start_time(trace.get_current_span()):
        return None
    return trace.set_span_in_context(step)


def _start_time(span: Span) -> int:
    return getattr(span, "start_time", None) or 0


# Threads


def _submit_with_context(original: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @wraps(original)
    def submit(pool: ThreadPoolExecutor, /, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        # `original` may start a thread that outlives the rollout, so it runs in an empty context, which new threads
        # inherit. Only `fn` runs in a copy of the current context.
        return Context().run(original, pool, copy_context().run, fn, *args, **kwargs)

    return submit


def _start_with_context(original: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @wraps(original)
    def start(thread: threading.Thread) -> None:
        if context.get_value(SCOPE) is not None:
            run, current = thread.run, copy_context()

            def run_in_context() -> None:
                # Break the reference cycle from the thread to this function and, through `run`, back to the thread.
                # Otherwise, the thread object would stay in memory until the next garbage collection.
                del thread.run
                current.run(run)

            thread.run = run_in_context
        original(thread)

    return start


CONTEXT_IN_THREADS = Instrumentation(
    lambda: [
        Patch(ThreadPoolExecutor, "submit", _submit_with_context),
        Patch(threading.Thread, "start", _start_with_context),
    ]
)
