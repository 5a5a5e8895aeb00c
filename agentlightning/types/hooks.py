"""Hooks: user code that runs before and after every execution of the agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rollouts import AttemptedRollout
from .spans import Span


class Hook:
    """Base class for hooks. The runner calls these methods for every attempt. It logs and ignores their exceptions."""

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: AttemptedRollout) -> None:
        """Run before the agent, after the rollout has been claimed and its resources have been loaded.

        This method is also called if the resources could not be loaded.
        """

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """Run when tracing has started. Spans emitted from this point on belong to the attempt."""

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """Run after the agent has returned, failed or been stopped. Spans emitted here still belong to the attempt."""

    async def on_rollout_end(
        self, *, agent: Any, runner: Any, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """Run after the attempt's spans and result have been reported to the store. `spans` contains these spans."""
