"""How calls are seen: what is patched while an agent is traced, and put back afterwards.

One file for each thing that is patched. An `Instrumentation` never decides whose span it makes: it asks the
OpenTelemetry context whether somebody listens there (`listening.py`), and stays out of the way when nobody does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agentops import AGENTOPS
    from .openinference import OPENINFERENCE
    from .patches import Instrumentation
    from .pydantic_ai import PYDANTIC_AI
    from .taps.wire_tap import WIRE_TAP
    from .threads import CONTEXT_IN_THREADS

_HOME = {
    "AGENTOPS": "agentops",
    "CONTEXT_IN_THREADS": "threads",
    "OPENINFERENCE": "openinference",
    "PYDANTIC_AI": "pydantic_ai",
    "WIRE_TAP": "taps.wire_tap",
    "Instrumentation": "patches",
}

__all__ = ["AGENTOPS", "CONTEXT_IN_THREADS", "OPENINFERENCE", "PYDANTIC_AI", "WIRE_TAP", "Instrumentation"]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
