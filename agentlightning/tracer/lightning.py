"""LightningTracer, the default: every LLM call as seen on the wire, and all that speaks OpenTelemetry."""

from __future__ import annotations

from ..instrumentation import CONTEXT_IN_THREADS, OPENINFERENCE, PYDANTIC_AI, WIRE_TAP, Instrumentation
from .otel import OtelTracer
from .provider import PROCESSOR
from .scope import Scope


class LightningTracer(OtelTracer):
    """Records LLM calls of any SDK through the wire tap, spans of installed OpenInference instrumentors, and every
    OpenTelemetry span that begins within its trace contexts.
    """

    def instrumentations(self) -> list[Instrumentation]:
        """The wire tap, the context in threads, and what is installed of OpenInference and of PydanticAI."""
        return [CONTEXT_IN_THREADS, WIRE_TAP, OPENINFERENCE, PYDANTIC_AI]

    def entering(self, scope: Scope) -> None:
        """Let libraries speak that the agent has imported since."""
        PYDANTIC_AI.look_again()

    def leaving(self, scope: Scope) -> None:
        """End streams that the agent neither read to the end nor closed."""
        WIRE_TAP.close_open_calls(lambda span_id: PROCESSOR.scope_of(span_id) is scope)
