"""OpenInference: the installed instrumentors of frameworks and tools.

Instrumentors of LLM SDKs whose calls the wire tap records are left out: they would record each call twice, and replace
the SDKs' streams with objects of their own. A user can still apply them, and their spans are recorded. If the wire tap
is disabled, they are applied like the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from .patches import Instrumentation
from .taps.wire_tap import is_enabled

logger = logging.getLogger("agentlightning.instrumentation")

_GROUP = "openinference_instrumentor"
_TAPPED_SDKS = frozenset({"openai", "anthropic"})


class OpenInference(Instrumentation):
    """The installed instrumentors that the user has not applied already."""

    def __init__(self) -> None:
        super().__init__()
        self._instrumentors: list[Any] = []

    def _apply(self) -> None:
        self._instrumentors = [instrumentor for instrumentor in _installed() if _instrument(instrumentor)]

    def _undo(self) -> None:
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()


def _installed() -> Iterator[Any]:
    for entry in entry_points(group=_GROUP):
        if entry.name not in _TAPPED_SDKS or not is_enabled():
            try:
                yield entry.load()()
            except Exception as error:  # a library that it needs is missing or too new
                logger.debug("OpenInference's instrumentor for %s cannot be used: %r", entry.name, error)


def _instrument(instrumentor: Any) -> bool:
    if instrumentor.is_instrumented_by_opentelemetry:
        return False
    try:
        instrumentor.instrument(raise_exception_on_conflict=True)
    except Exception as error:  # the library to instrument is missing or too new
        logger.debug("%s cannot be applied: %r", type(instrumentor).__name__, error)
        return False
    return True


OPENINFERENCE = OpenInference()
