"""Lazy imports: a package's public names, which only its stub file lists, are imported when they are first used."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

_IMPORT = re.compile(r"^from \.([\w.]+) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)


def lazy_names(package: str, file: str) -> tuple[list[str], Callable[[str], Any]]:
    """Return `__all__` and `__getattr__` for a package whose stub imports every public name as `X as X`.

    `file` is the package's `__file__`. Importing the package does not load any optional or slow libraries, because each
    name is imported only when it is first used.
    """
    stub = Path(file).with_suffix(".pyi").read_text(encoding="utf-8")
    modules = {
        name: module for module, *names in _IMPORT.findall(stub) for name in re.findall(r" as (\w+)", "".join(names))
    }

    def get(name: str) -> Any:
        if module := modules.get(name):
            return getattr(import_module(f".{module}", package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return sorted(modules), get
