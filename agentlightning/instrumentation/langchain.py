"""LangChain's steps as OpenInference records them, which are not in the OpenTelemetry context: where to find them."""

from __future__ import annotations

import logging
import sys
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context

logger = logging.getLogger("agentlightning.instrumentation")

_INSTRUMENTOR = "openinference.instrumentation.langchain"


def around() -> Context | None:
    """The context in which a span made here is inside LangChain's step; None where the current one says it already."""
    instrumentor: Any = sys.modules.get(_INSTRUMENTOR)
    if instrumentor is None:
        return None
    try:
        step = instrumentor.get_current_span()
    except Exception:
        logger.debug("LangChain's current step is not known", exc_info=True)
        return None
    if step is None or _began(step) < _began(trace.get_current_span()):
        return None
    return trace.set_span_in_context(step, context.get_current())


def _began(span: trace.Span) -> int:
    return getattr(span, "start_time", None) or 0
