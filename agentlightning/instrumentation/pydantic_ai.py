"""PydanticAI, which speaks OpenTelemetry by itself once it is asked to: it is asked, unless the user has done so."""

from __future__ import annotations

import sys
from typing import Any

from .patches import Instrumentation


class PydanticAI(Instrumentation):
    """Its agents' and tools' spans, for all agents that do not say otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: Any = None

    def look_again(self) -> None:
        """Ask it, where it has been imported since it was last looked."""
        if self._asked is None and "pydantic_ai" in sys.modules:
            with self._lock:
                if self._wanted:
                    self._apply()

    def _apply(self) -> None:
        # It is not imported for this: that takes a second, which an agent that does without it should not pay.
        agent: Any = getattr(sys.modules.get("pydantic_ai"), "Agent", None)
        if agent is not None and not getattr(agent, "_instrument_default", True):
            agent.instrument_all()
            self._asked = agent

    def _undo(self) -> None:
        agent, self._asked = self._asked, None
        if agent is not None:
            agent.instrument_all(False)


PYDANTIC_AI = PydanticAI()
