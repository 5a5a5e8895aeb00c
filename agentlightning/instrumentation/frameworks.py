"""Instrumentation of agent frameworks: OpenInference's instrumentors, and PydanticAI's built-in instrumentation.

OpenInference's instrumentors for LLM SDKs that the wire tap covers are not applied: they would record each call a
second time, and replace the SDKs' streams with objects of their own. If a user applies such an
instrumentor, its spans are recorded. If the wire tap is disabled, these instrumentors are applied like the others.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points
from typing import Any

from .patches import Instrumentation
from .wire_tap import is_enabled

logger = logging.getLogger("agentlightning.instrumentation")

_GROUP = "openinference_instrumentor"
_TAPPED_SDKS = frozenset({"openai", "anthropic"})


class OpenInference(Instrumentation):
    """OpenInference's installed instrumentors that the user has not already applied."""

    _instrumentors: list[Any]

    def _apply(self) -> None:
        self._instrumentors = []
        for entry in entry_points(group=_GROUP):
            if entry.name in _TAPPED_SDKS and is_enabled():
                continue
            try:
                instrumentor = entry.load()()
                if not instrumentor.is_instrumented_by_opentelemetry:
                    instrumentor.instrument(raise_exception_on_conflict=True)
                    self._instrumentors.append(instrumentor)
            except Exception as error:  # the library to instrument is missing or too new
                logger.debug("OpenInference's instrumentor for %s cannot be applied: %r", entry.name, error)

    def _undo(self) -> None:
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()


class PydanticAI(Instrumentation):
    """PydanticAI's built-in spans for agents and tools, except agents that have their own instrumentation settings."""

    _instrumented: Any = None

    def refresh(self) -> None:
        """Enable the instrumentation if PydanticAI has been imported since this was last called."""
        if self._instrumented is None and "pydantic_ai" in sys.modules:
            with self._lock:
                if self._users:
                    self._apply()

    def _apply(self) -> None:
        # Do not import the library for this: the import takes a second, and agents of other frameworks do not need it.
        agent: Any = getattr(sys.modules.get("pydantic_ai"), "Agent", None)
        if agent is not None and not getattr(agent, "_instrument_default", True):
            agent.instrument_all()
            self._instrumented = agent

    def _undo(self) -> None:
        agent, self._instrumented = self._instrumented, None
        if agent is not None:
            agent.instrument_all(False)


OPENINFERENCE = OpenInference()
PYDANTIC_AI = PydanticAI()
