"""Instrumentation of agent frameworks: OpenInference's instrumentors and PydanticAI's built-in instrumentation.

While the wire tap is enabled, OpenInference's instrumentors for the LLM SDKs in `_TAPPED_SDKS` are not applied: they
would record each LLM call a second time and replace the SDKs' streams with their own objects. If a user applies such an
instrumentor, its spans are recorded too.
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
    """All installed OpenInference instrumentors, except those that duplicate the wire tap or are already applied."""

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
            except Exception as error:  # for example, the library to instrument is not installed or too new
                logger.debug("OpenInference's instrumentor for %s cannot be applied: %r", entry.name, error)

    def _undo(self) -> None:
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()


class PydanticAI(Instrumentation):
    """PydanticAI's built-in instrumentation for all agents, except those with their own instrumentation settings."""

    _instrumented: Any = None

    def refresh(self) -> None:
        """Enable the instrumentation now if PydanticAI was imported only after `apply` and a tracer still uses it."""
        if self._instrumented is None and "pydantic_ai" in sys.modules:
            with self._lock:
                if self._users:
                    self._apply()

    def _apply(self) -> None:
        # Do not import PydanticAI here: the import takes a second, and agents that use other frameworks do not need it.
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
