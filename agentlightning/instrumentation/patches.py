"""Patches that are applied once for all tracers and undone when the last tracer stops using them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Patch:
    """Replaces an attribute of a class or module with the result of calling `wrap` with the original attribute."""

    owner: Any
    name: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    _original: Any = field(default=None, init=False)
    _replacement: Any = field(default=None, init=False)

    def apply(self) -> None:
        """Install the replacement."""
        self._original = getattr(self.owner, self.name)
        self._replacement = self.wrap(self._original)
        setattr(self.owner, self.name, self._replacement)

    def undo(self) -> None:
        """Restore the original, unless other code has replaced the attribute again in the meantime."""
        if getattr(self.owner, self.name) is self._replacement:
            setattr(self.owner, self.name, self._original)


class Instrumentation:
    """Patches that are active while at least one tracer uses them.

    Subclasses that instrument libraries in another way override `_apply` and `_undo`.
    """

    def __init__(self, patches: Callable[[], Iterable[Patch]] = tuple) -> None:
        self._patches = patches
        self._applied: list[Patch] = []
        self._users = 0
        # Protects `_users` and `_applied` from concurrent access by tracers in several runner threads.
        self._lock = threading.Lock()

    def apply(self) -> None:
        """Apply the instrumentation, unless another tracer has already applied it."""
        with self._lock:
            if not self._users:
                self._apply()
            self._users += 1

    def undo(self) -> None:
        """Undo the instrumentation, unless another tracer still uses it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo()

    def refresh(self) -> None:
        """Instrument libraries imported after `apply`. Called when a trace context starts. By default, does nothing."""

    def _apply(self) -> None:
        self._applied = list(self._patches())
        for patch in self._applied:
            patch.apply()

    def _undo(self) -> None:
        for patch in reversed(self._applied):
            patch.undo()
