"""The demo's algorithm: every prompt on every task, and the mean of what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...adapter import find_final_reward
from ...store import LightningStore
from ...types import AttemptedRollout, EnqueueRolloutRequest


@dataclass(frozen=True)
class Ended:
    """What came of one rollout."""

    reward: float | None
    problem: str | None = None
    """Why there is no reward."""


@dataclass(frozen=True)
class Tried:
    """What came of one prompt."""

    name: str
    prompt: str
    rollouts: list[Ended]

    @property
    def mean(self) -> float:
        """The mean reward; a rollout without one counts as 0."""
        return sum(rollout.reward or 0.0 for rollout in self.rollouts) / len(self.rollouts)

    @property
    def problems(self) -> list[str]:
        """Why rollouts have no reward."""
        return [rollout.problem for rollout in self.rollouts if rollout.problem]


class Progress(Protocol):
    """Who wants to know how far the search has come."""

    def rollout_ended(self, prompt: str, ended: Ended) -> None: ...
    def prompt_tried(self, tried: Tried) -> None: ...


async def try_prompts(
    store: LightningStore, prompts: Mapping[str, str], tasks: Sequence[Any], progress: Progress
) -> list[Tried]:
    """Put all the work into the queue, then gather what comes back, prompt by prompt."""
    queued = {name: await _enqueue(store, prompt, tasks) for name, prompt in prompts.items()}
    return [await _gather(store, name, prompts[name], rollouts, progress) for name, rollouts in queued.items()]


async def _enqueue(store: LightningStore, prompt: str, tasks: Sequence[Any]) -> list[str]:
    resources = await store.add_resources({"prompt_template": prompt})  # pyright: ignore[reportArgumentType]
    rollouts = await store.enqueue_many_rollouts(
        [EnqueueRolloutRequest(input=task, resources_id=resources.resources_id) for task in tasks]
    )
    return [rollout.rollout_id for rollout in rollouts]


async def _gather(store: LightningStore, name: str, prompt: str, rollouts: list[str], progress: Progress) -> Tried:
    ended: list[Ended] = []
    for outcome in asyncio.as_completed([_outcome(store, rollout) for rollout in rollouts]):
        ended.append(await outcome)
        progress.rollout_ended(name, ended[-1])
    tried = Tried(name, prompt, ended)
    progress.prompt_tried(tried)
    return tried


async def _outcome(store: LightningStore, rollout_id: str) -> Ended:
    (rollout,) = await store.wait_for_rollouts([rollout_id])
    reward = find_final_reward(await store.query_spans(rollout_id))
    if reward is not None:
        return Ended(reward)
    reason = (rollout.attempt.metadata or {}).get("reason") if isinstance(rollout, AttemptedRollout) else None
    return Ended(None, problem=f"{rollout_id} {rollout.status}: {reason or 'it has no reward'}")
