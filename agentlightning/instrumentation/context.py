"""Who listens: the OpenTelemetry context says whether calls made here are to be recorded, and by which tracer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol

from opentelemetry import context
from opentelemetry.trace import Span, Tracer

SCOPE: Final = "agentlightning.scope"
"""The context key under which a tracer puts the scope its spans belong to."""

CALL_SPAN: Final = "agentlightning.call_span"
"""The context key under which other instrumentation that we host puts the span it has made for an LLM call."""

SUPPRESSED: Final = context._SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage]
"""The context key under which exporters and others ask for their own calls not to be recorded."""

_SUPPRESSED_TOO: Final = "suppress_instrumentation"
"""The same as older instrumentation libraries spell it."""


BENEATH: Final = ContextVar("agentlightning_beneath", default=False)
"""Whether an HTTP library that is tapped is sending a call here: a library that it may use for that is not its own."""


class Listener(Protocol):
    """What instrumentation needs to know of a scope."""

    instrument_with: Tracer | None
    """Makes the spans of instrumented calls; None where such calls are not to be recorded."""
    read_at_once: bool
    """Whether others listen to those spans too, so that all there is to say must be on them when they end."""


def listening() -> Listener | None:
    """Who wants to know of a call made here and now, if there is somebody."""
    here = context.get_current()
    scope: Listener | None = here.get(SCOPE)  # pyright: ignore[reportAssignmentType]
    if scope is None or scope.instrument_with is None or here.get(SUPPRESSED) or here.get(_SUPPRESSED_TOO):
        return None
    return scope


def hosted_call_span() -> Span | None:
    """The span that other instrumentation has made for the call under way, to be completed rather than repeated."""
    span = context.get_value(CALL_SPAN)
    return span if isinstance(span, Span) and span.is_recording() else None
