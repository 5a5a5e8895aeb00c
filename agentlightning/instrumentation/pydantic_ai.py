"""PydanticAI: switch on its own OpenTelemetry instrumentation, unless the user has configured it."""

from __future__ import annotations

import sys
from typing import Any

from .patches import Instrumentation


class PydanticAI(Instrumentation):
    """Spans of its agents and tools, for all agents without settings of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._instrumented: Any = None

    def refresh(self) -> None:
        """Switch the instrumentation on if the library has been imported since the last call."""
        if self._instrumented is None and "pydantic_ai" in sys.modules:
            with self._lock:
                if self._users:
                    self._apply()

    def _apply(self) -> None:
        # Not imported for this: the import takes a second, which other agents should not pay for.
        agent: Any = getattr(sys.modules.get("pydantic_ai"), "Agent", None)
        if agent is not None and not getattr(agent, "_instrument_default", True):
            agent.instrument_all()
            self._instrumented = agent

    def _undo(self) -> None:
        agent, self._instrumented = self._instrumented, None
        if agent is not None:
            agent.instrument_all(False)


PYDANTIC_AI = PydanticAI()
