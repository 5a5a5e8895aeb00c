"""OpenInference: whichever of its instrumentors are installed, for the frameworks and tools they know.

Those for LLM SDKs whose calls the wire tap sees are left out: they would record each call twice and put objects of
their own in place of the SDKs' streams. Who wants them anyway instruments them by hand, and their spans are recorded.
Where the tap is switched off, they are applied like the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from .patches import Instrumentation
from .taps.wire_tap import is_on

logger = logging.getLogger("agentlightning.instrumentation")

_GROUP = "openinference_instrumentor"
_SEEN_ON_THE_WIRE = frozenset({"openai", "anthropic"})


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
        if entry.name not in _SEEN_ON_THE_WIRE or not is_on():
            try:
                yield entry.load()()
            except Exception as error:  # a library it needs is missing or too new
                logger.debug("OpenInference's instrumentor for %s cannot be used: %r", entry.name, error)


def _instrument(instrumentor: Any) -> bool:
    if instrumentor.is_instrumented_by_opentelemetry:
        return False
    try:
        instrumentor.instrument(raise_exception_on_conflict=True)
    except Exception as error:  # what it instruments is not installed, or is too new
        logger.debug("%s has nothing to instrument: %r", type(instrumentor).__name__, error)
        return False
    return True


OPENINFERENCE = OpenInference()
