"""Patching with manners: applied once however many tracers ask, and put back when the last one is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Patch:
    """One attribute of a class or module, replaced by what `wrap` makes of it."""

    owner: Any
    name: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    _original: Any = field(default=None, init=False)
    _replacement: Any = field(default=None, init=False)

    def apply(self) -> None:
        """Put the replacement in place."""
        self._original = getattr(self.owner, self.name)
        self._replacement = self.wrap(self._original)
        setattr(self.owner, self.name, self._replacement)

    def undo(self) -> None:
        """Put the original back; where somebody has wrapped our replacement since, theirs stays."""
        if getattr(self.owner, self.name) is self._replacement:
            setattr(self.owner, self.name, self._original)


class Instrumentation:
    """Something that is in place while at least one tracer wants it; subclasses say what, in `_apply` and `_undo`."""

    def __init__(self) -> None:
        self._wanted = 0
        # Tracers of several runner threads come and go at the same time.
        self._lock = threading.Lock()

    def apply(self) -> None:
        """Put it in place, unless another tracer already had it done."""
        with self._lock:
            if not self._wanted:
                self._apply()
            self._wanted += 1

    def undo(self) -> None:
        """Put everything back, unless another tracer still wants it."""
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._undo()

    def _apply(self) -> None:
        raise NotImplementedError

    def _undo(self) -> None:
        raise NotImplementedError


class Patches(Instrumentation):
    """An instrumentation that is nothing but patches."""

    def __init__(self, patches: Callable[[], Iterable[Patch]]) -> None:
        super().__init__()
        self._patches = patches
        self._applied: list[Patch] = []

    def _apply(self) -> None:
        self._applied = list(self._patches())
        for patch in self._applied:
            patch.apply()

    def _undo(self) -> None:
        for patch in reversed(self._applied):
            patch.undo()
