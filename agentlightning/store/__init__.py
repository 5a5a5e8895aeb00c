"""Where everything lives: the store's contract, its implementation, and the ways to reach it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import UNSET, LightningStore, Unset
    from .factory import InMemoryLightningStore, PostgresLightningStore, SqliteLightningStore, open_store
    from .http.client import LightningStoreClient
    from .http.server import LightningStoreServer

_HOME = {
    "UNSET": "contract",
    "InMemoryLightningStore": "factory",
    "LightningStore": "contract",
    "LightningStoreClient": "http.client",
    "LightningStoreServer": "http.server",
    "PostgresLightningStore": "factory",
    "SqliteLightningStore": "factory",
    "Unset": "contract",
    "open_store": "factory",
}

__all__ = [
    "UNSET",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreClient",
    "LightningStoreServer",
    "PostgresLightningStore",
    "SqliteLightningStore",
    "Unset",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
