"""LitAgent: the base class for agents, with separate methods for training and validation rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ..errors import AgentError
from ..types import AttemptedRollout, NamedResources, RolloutMode, Span, SpanCoreFields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

T = TypeVar("T")

AgentResult: TypeAlias = "float | Sequence[Span] | Sequence[ReadableSpan] | Sequence[SpanCoreFields] | None"
"""Return value of an agent: the final reward, spans to store, or None."""


class LitAgent(Generic[T]):
    """An agent that processes tasks of type `T`.

    Override `rollout`, or `rollout_async` for an async agent. If training rollouts need different code, override
    `training_rollout`, which handles rollouts in mode `train`, and `validation_rollout`, which handles all others.
    Both also have `_async` forms. A sync method runs in its own thread, so it may block.
    """

    def rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """Process `task` and return the reward, spans to store, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not define rollout; override it in your subclass")

    async def rollout_async(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """Async form of `rollout`."""
        raise NotImplementedError(f"{type(self).__name__} does not define rollout_async; override it in your subclass")

    def training_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """Process a task in mode `train`. Calls `rollout` by default."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(
        self, task: T, resources: NamedResources, rollout: AttemptedRollout
    ) -> AgentResult:
        """Async form of `training_rollout`. Calls `rollout_async` by default."""
        return await self.rollout_async(task, resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """Process a task in any mode except `train`. Calls `rollout` by default."""
        return self.rollout(task, resources, rollout)

    async def validation_rollout_async(
        self, task: T, resources: NamedResources, rollout: AttemptedRollout
    ) -> AgentResult:
        """Async form of `validation_rollout`. Calls `rollout_async` by default."""
        return await self.rollout_async(task, resources, rollout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[T, NamedResources, AttemptedRollout], Any]:
        """Return the most specific method that the class defines for `mode`. Raises `AgentError` if there is none.

        Async methods take precedence over sync ones.
        """
        specific = "training_rollout" if mode == "train" else "validation_rollout"
        for name in (f"{specific}_async", specific, "rollout_async", "rollout"):
            if getattr(type(self), name) is not getattr(LitAgent, name):
                return getattr(self, name)
        raise AgentError(
            f"{type(self).__name__} has no method for a rollout in mode {mode}: "
            f"define rollout or {specific} (or their _async forms)"
        )
