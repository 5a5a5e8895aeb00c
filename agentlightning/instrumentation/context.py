"""Recording context: the OpenTelemetry context determines whether a call is recorded, and by which tracer.

Python starts new threads in an empty context, so work in a `Thread` or an executor would not belong to any rollout.
`CONTEXT_IN_THREADS` propagates the context to threads and executors.
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
"""Context key of the scope that new spans belong to. Set by a tracer."""

CALL_SPAN: Final = "agentlightning.call_span"
"""Context key of a span that third-party instrumentation (applied by us) has created for an LLM call."""

SUPPRESSED: Final = context._SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage]
"""Context key that exporters and other code set to prevent the recording of their own calls."""

_SUPPRESSED_OLD: Final = "suppress_instrumentation"
"""The same key as spelled by older instrumentation libraries."""

_LANGCHAIN_INSTRUMENTOR: Final = "openinference.instrumentation.langchain"

IN_REQUEST: Final = ContextVar("agentlightning_in_request", default=False)
"""True while an HTTP library is sending a recorded call, so that an underlying library does not record it again."""


class RecordingContext(Protocol):
    """The part of a scope that instrumentation uses."""

    call_tracer: Tracer | None
    """Creates the spans of LLM calls, or None if these calls are not recorded."""
    eager_decode: bool
    """True if the bodies of a call are decoded before its span ends, because other span processors read it too."""


def recording_context() -> RecordingContext | None:
    """Return the scope that records calls in the current OpenTelemetry context, or None if they are not recorded."""
    current = context.get_current()
    scope: RecordingContext | None = current.get(SCOPE)  # pyright: ignore[reportAssignmentType]
    if scope is None or scope.call_tracer is None or current.get(SUPPRESSED) or current.get(_SUPPRESSED_OLD):
        return None
    return scope


def parent_context() -> OtelContext | None:
    """Return the context for a new span, or None for the current context.

    OpenInference keeps the span of LangChain's current step outside of the OpenTelemetry context. If that span started
    after the current span, it becomes the parent of the new span.
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
        # The pool may start a thread that outlives the rollout, so start it in an empty context.
        return Context().run(original, pool, copy_context().run, fn, *args, **kwargs)

    return submit


def _start_with_context(original: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @wraps(original)
    def start(thread: threading.Thread) -> None:
        if context.get_value(SCOPE) is not None:
            run, current = thread.run, copy_context()

            def run_in_context() -> None:
                # An object that holds its own bound method stays alive until the next garbage collection.
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
