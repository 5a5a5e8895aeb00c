"""What is seen of a run: from an agent's calls to spans in the store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .active import clear_active_tracer, get_active_tracer, set_active_tracer
    from .agentops import AgentOpsTracer
    from .base import Tracer
    from .dummy import DummyTracer
    from .lightning import LightningTracer
    from .otel import OtelTracer

_HOME = {
    "AgentOpsTracer": "agentops",
    "DummyTracer": "dummy",
    "LightningTracer": "lightning",
    "OtelTracer": "otel",
    "Tracer": "base",
    "clear_active_tracer": "active",
    "get_active_tracer": "active",
    "set_active_tracer": "active",
}

__all__ = [
    "AgentOpsTracer",
    "DummyTracer",
    "LightningTracer",
    "OtelTracer",
    "Tracer",
    "clear_active_tracer",
    "get_active_tracer",
    "set_active_tracer",
]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
