"""Hooks: user code that runs before and after every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rollouts import AttemptedRollout
from .spans import Span


class Hook:
    """Base class for hooks. The runner calls the hooks for every rollout. Errors in hooks are logged and ignored."""

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: AttemptedRollout) -> None:
        """Run before the agent, after the rollout has been claimed and its resources have been loaded."""

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """Run when tracing has started. Spans emitted from this point on belong to the rollout."""

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """Run after the agent has returned or raised. Spans emitted here still belong to the rollout."""

    async def on_rollout_end(
        self, *, agent: Any, runner: Any, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """Run at the end of a rollout, after all its spans have been stored and the attempt's status is final."""
