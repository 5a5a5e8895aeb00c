"""Which tracer user code speaks to, here and now.

Kept in a context variable, so that rollouts that run at the same time in one process each have their own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Tracer

_active: ContextVar[Tracer | None] = ContextVar("agentlightning_active_tracer", default=None)


def get_active_tracer() -> Tracer | None:
    """The tracer of the trace context this code runs in, or the one set by hand."""
    return _active.get()


def set_active_tracer(tracer: Tracer) -> None:
    """Let emitters in this task or thread speak to `tracer`."""
    _active.set(tracer)


def clear_active_tracer() -> None:
    """No tracer is active in this task or thread any more."""
    _active.set(None)
