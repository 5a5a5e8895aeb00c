"""The tracers to choose from, from the one that records least to the one that records most."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from opentelemetry import trace

from ..instrumentation import AGENTOPS, CONTEXT_IN_THREADS, OPENINFERENCE, PYDANTIC_AI, WIRE_TAP, Instrumentation
from ..instrumentation.llm_call import close_open_calls
from .base import Tracer
from .provider import PROCESSOR, has_other_processors, otel_tracer
from .scope import Scope

if TYPE_CHECKING:
    from ..store.contract import LightningStore

logger = logging.getLogger("agentlightning.tracer")


class DummyTracer(Tracer):
    """Records rewards and everything else that user code emits, but no calls of the agent.

    Does not use OpenTelemetry and patches nothing; works without a store.
    """


class OtelTracer(Tracer):
    """Records every OpenTelemetry span that begins within its trace contexts. Patches nothing."""

    def otel_tracer(self) -> trace.Tracer:
        """Return a tracer of the process's provider, which is the user's or ours."""
        return otel_tracer()

    def has_other_processors(self) -> bool:
        """Return True if the provider has span processors of the user."""
        return has_other_processors()


class LightningTracer(OtelTracer):
    """The default: records LLM calls of any SDK through the wire tap, spans of installed OpenInference instrumentors,
    and every OpenTelemetry span that begins within its trace contexts.
    """

    def instrumentations(self) -> list[Instrumentation]:
        """Return the wire tap, context propagation to threads, OpenInference and PydanticAI."""
        return [CONTEXT_IN_THREADS, WIRE_TAP, OPENINFERENCE, PYDANTIC_AI]

    def on_enter(self, scope: Scope) -> None:
        """Instrument PydanticAI if the agent has imported it since."""
        PYDANTIC_AI.refresh()

    def on_exit(self, scope: Scope) -> None:
        """End the records of streams that the agent neither read to the end nor closed."""
        close_open_calls(lambda span_id: PROCESSOR.scope_of(span_id) is scope)


class AgentOpsTracer(LightningTracer):
    """Also records what the AgentOps SDK instruments: agent frameworks, its decorators and LLM SDKs.

    An LLM call that both see is one span. AgentOps' service is never contacted, and no key is needed. Without the
    extra `[agentops]` it logs this once and works as a `LightningTracer`.
    """

    _missing_logged = False

    def instrumentations(self) -> list[Instrumentation]:
        """Return those of `LightningTracer`, and AgentOps if it is installed."""
        return [*super().instrumentations(), *([AGENTOPS] if AGENTOPS.is_installed else [])]

    def init_worker(self, worker_id: int | str = 0, store: LightningStore | None = None) -> None:
        """Set up the tracer, and log whether AgentOps is used."""
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

    def on_enter(self, scope: Scope) -> None:
        """Instrument libraries that the agent has imported since."""
        super().on_enter(scope)
        AGENTOPS.refresh()
