"""LitAgent: an agent as a class, with a method for each way it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ..errors import AgentError
from ..types import AttemptedRollout, NamedResources, RolloutMode, Span, SpanCoreFields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

T = TypeVar("T")

AgentResult: TypeAlias = "float | Sequence[Span] | Sequence[ReadableSpan] | Sequence[SpanCoreFields] | None"
"""What an agent may return: its final reward, spans to store, or nothing."""


class LitAgent(Generic[T]):
    """An agent that carries out tasks of type `T`.

    Override `rollout`, or `rollout_async` for an agent that awaits. Where training differs from validation, override
    `training_rollout` and `validation_rollout` (or their `_async` forms): rollouts of mode `train` go to the first, all
    others to the second. A sync method is run in a thread of its own, so it may block.
    """

    def rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """Carry out `task` and return its reward, spans, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not define rollout")

    async def rollout_async(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """`rollout`, for agents that await."""
        raise NotImplementedError(f"{type(self).__name__} does not define rollout_async")

    def training_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """`rollout`, in mode `train`."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(
        self, task: T, resources: NamedResources, rollout: AttemptedRollout
    ) -> AgentResult:
        """`rollout_async`, in mode `train`."""
        return await self.rollout_async(task, resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> AgentResult:
        """`rollout`, in every mode but `train`."""
        return self.rollout(task, resources, rollout)

    async def validation_rollout_async(
        self, task: T, resources: NamedResources, rollout: AttemptedRollout
    ) -> AgentResult:
        """`rollout_async`, in every mode but `train`."""
        return await self.rollout_async(task, resources, rollout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[T, NamedResources, AttemptedRollout], Any]:
        """The method that carries out rollouts of this mode: the most particular one that the class defines.

        Raises `AgentError` when it defines none that fits.
        """
        particular = "training_rollout" if mode == "train" else "validation_rollout"
        for name in (f"{particular}_async", particular, "rollout_async", "rollout"):
            if getattr(type(self), name) is not getattr(LitAgent, name):
                return getattr(self, name)
        raise AgentError(
            f"{type(self).__name__} has no method for a rollout of mode {mode}: "
            f"define rollout or {particular} (or an _async form of them)"
        )
