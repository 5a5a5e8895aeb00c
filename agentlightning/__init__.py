"""Agent Lightning: make any AI agent better without rewriting it.

The front door is lazy: a name is imported from its room when it is first used, so `import agentlightning` loads no
model SDK, no web server and no tracing library. Which name is in which room stands in `__init__.pyi`, once, for type
checkers and for this module; a new name is one line there.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

_IMPORT = re.compile(r"^from \.(\w+) import \((.*?)\)", re.DOTALL | re.MULTILINE)
_HOME = {
    name: room
    for room, names in _IMPORT.findall(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for name in re.findall(r"as (\w+)", names)
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if room := _HOME.get(name):
        return getattr(import_module(f".{room}", __name__), name)
    raise AttributeError(f"module 'agentlightning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
