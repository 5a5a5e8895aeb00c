"""How agents get better: what an algorithm is, and those that come with the house."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .apo import APO
    from .base import Algorithm, FastAlgorithm
    from .baseline import Baseline
    from .function import FunctionAlgorithm, algo, as_algorithm
    from .journal import Journal

_HOME = {
    "APO": "apo",
    "Algorithm": "base",
    "Baseline": "baseline",
    "FastAlgorithm": "base",
    "FunctionAlgorithm": "function",
    "Journal": "journal",
    "algo": "function",
    "as_algorithm": "function",
}

__all__ = [
    "APO",
    "Algorithm",
    "Baseline",
    "FastAlgorithm",
    "FunctionAlgorithm",
    "Journal",
    "algo",
    "as_algorithm",
]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
