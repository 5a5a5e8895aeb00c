"""The model's door: a gateway between agents and model servers that records every call as its attempt's.

`proxy.py` starts and stops it · `app.py` answers · `routing.py` says which server a call goes to, and when ·
`server.py` is one of them · `exchange.py` is one call · `extras.py` what is asked beyond what the agent asked ·
`recording.py` brings calls to the store · `door.py` checks who asks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .proxy import LLMProxy
    from .upstreams import Upstream

_HOME = {"LLMProxy": "proxy", "Upstream": "upstreams"}

__all__ = ["LLMProxy", "Upstream"]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
