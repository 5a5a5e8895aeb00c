"""Hooks: what a user may add around every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rollouts import AttemptedRollout
from .spans import Span


class Hook:
    """Called by the runner around every rollout; override what you need. Errors in hooks are logged and swallowed."""

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: AttemptedRollout) -> None:
        """The rollout was claimed and its resources are here; the agent has not been called."""

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """From here on what the agent does is recorded; spans emitted now belong to the rollout."""

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: AttemptedRollout) -> None:
        """The agent has returned or raised; spans emitted now still belong to the rollout."""

    async def on_rollout_end(
        self, *, agent: Any, runner: Any, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """Everything is in the store, and the attempt's status is final."""
