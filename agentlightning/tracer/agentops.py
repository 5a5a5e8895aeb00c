"""AgentOpsTracer: the AgentOps SDK as pure instrumentation, on our provider."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..instrumentation import AGENTOPS, Instrumentation
from .lightning import LightningTracer
from .scope import Scope

if TYPE_CHECKING:
    from ..store.contract import LightningStore

logger = logging.getLogger("agentlightning.tracer")


class AgentOpsTracer(LightningTracer):
    """As `LightningTracer`, and what the AgentOps SDK makes spans of: agent frameworks, its decorators, LLM SDKs.

    An LLM call that both see is one span. AgentOps' service is never contacted, and no key is needed. Without the
    extra `[agentops]` it is a `LightningTracer` that says so.
    """

    _said_missing = False

    def instrumentations(self) -> list[Instrumentation]:
        """Also AgentOps, where it is installed."""
        return [*super().instrumentations(), *([AGENTOPS] if AGENTOPS.is_installed else [])]

    def init_worker(self, worker_id: int | str = 0, store: LightningStore | None = None) -> None:
        """As every tracer does, and say which of the two it is."""
        super().init_worker(worker_id, store)
        if AGENTOPS.is_installed:
            logger.info("[Worker %s] AgentOps client initialized.", worker_id)
        elif not AgentOpsTracer._said_missing:
            AgentOpsTracer._said_missing = True
            logger.info(
                "[Worker %s] The AgentOps SDK is not installed (pip install 'agentlightning[agentops]'); "
                "LLM calls are recorded by our own instrumentation.",
                worker_id,
            )

    def entering(self, scope: Scope) -> None:
        """Let AgentOps see libraries that the agent has imported since."""
        super().entering(scope)
        AGENTOPS.look_again()
