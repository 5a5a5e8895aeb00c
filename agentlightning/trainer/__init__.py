"""The trainer: one call runs the loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callbacks import Callback, TensorBoard
    from .result import RunResult, Tried
    from .trainer import Trainer

_HOME = {
    "Callback": "callbacks",
    "RunResult": "result",
    "TensorBoard": "callbacks",
    "Trainer": "trainer",
    "Tried": "result",
}

__all__ = ["Callback", "RunResult", "TensorBoard", "Trainer", "Tried"]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
