"""Where everything lives: the store's contract, its implementation, and the ways to reach it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends import (
        InMemoryLightningStore,
        PostgresLightningStore,
        SqliteLightningStore,
        open_store,
    )
    from .client import LightningStoreClient
    from .contract import UNSET, LightningStore, Unset
    from .server import LightningStoreServer

_HOME = {
    "UNSET": "contract",
    "InMemoryLightningStore": "backends",
    "LightningStore": "contract",
    "LightningStoreClient": "client",
    "LightningStoreServer": "server",
    "PostgresLightningStore": "backends",
    "SqliteLightningStore": "backends",
    "Unset": "contract",
    "open_store": "backends",
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
