"""HTTP proxy between agents and model servers that records every call as a span of its attempt.

`proxy.py` has the public class · `app.py` dispatches requests · `auth.py` authenticates them · `routing.py` selects a
`model_server.py` · `forwarding.py` forwards one call · `injected_parameters.py` asks for token ids · `recording.py`
stores the spans.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .proxy import LLMProxy
    from .upstreams import Upstream

_MODULES = {"LLMProxy": "proxy", "Upstream": "upstreams"}

__all__ = ["LLMProxy", "Upstream"]


def __getattr__(name: str) -> Any:
    if module := _MODULES.get(name):
        return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
