"""LightningTracer, the default: every LLM call as seen on the wire, and all that speaks OpenTelemetry."""

from __future__ import annotations

from ..instrumentation import CONTEXT_IN_THREADS, OPENINFERENCE, WIRE_TAP, Instrumentation
from .otel import OtelTracer
from .provider import PROCESSOR
from .scope import Scope


class LightningTracer(OtelTracer):
    """Records LLM calls of any SDK through the wire tap, spans of installed OpenInference instrumentors, and every
    OpenTelemetry span that begins within its trace contexts.
    """

    def instrumentations(self) -> list[Instrumentation]:
        """The wire tap, the context in threads, and OpenInference where it is installed."""
        return [CONTEXT_IN_THREADS, WIRE_TAP, OPENINFERENCE]

    def leaving(self, scope: Scope) -> None:
        """End streams that the agent neither read to the end nor closed."""
        WIRE_TAP.close_open_calls(lambda span_id: PROCESSOR.scope_of(span_id) is scope)
