"""Trials: prompts as resources in the store, and what comes of rollouts with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...store import LightningStore
from ...types import (
    Config,
    Dataset,
    EnqueueRolloutRequest,
    NamedResources,
    PromptTemplate,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
)
from .comparison import estimate
from .rewriting import Seen
from .search import Candidate, Score

ABOUT = "apo"
"""The resource that tells of a candidate's parent, critique and scores."""


class Trials:
    """Tries candidates for one of the resources; the others stay as they are."""

    def __init__(
        self,
        store: LightningStore,
        resources: NamedResources,
        name: str,
        *,
        timeout: float,
        failure_score: float,
        config: RolloutConfig,
    ) -> None:
        self._store = store
        self._resources = resources
        self._name = name
        self._timeout = timeout
        self._failure_score = failure_score
        self._config = config
        self.ends: Counter[str] = Counter()
        """How rollouts that are scored have ended: by status, or `without reward`."""

    @property
    def seed(self) -> PromptTemplate:
        """The prompt to improve."""
        prompt = self._resources[self._name]
        assert isinstance(prompt, PromptTemplate)
        return prompt

    def prompt(self, text: str) -> PromptTemplate:
        """`text` in the place of the seed."""
        return self.seed.model_copy(update={"template": text})

    async def keep(self, candidate: Candidate, **about: Any) -> ResourcesUpdate:
        """Store the candidate as the newest version of its resources, unless the newest says the same."""
        resources_id = resources_id_of(candidate)
        told = {
            "parent": candidate.parent and f"apo/{candidate.parent}",
            "critique": candidate.critique,
            "scores": {str(task): scores for task, scores in sorted(candidate.scores.items())},
            **estimate(candidate.all_scores).model_dump(),
            **about,
        }
        resources = {**self._resources, self._name: self.prompt(candidate.prompt), ABOUT: Config(value=told)}
        kept = await self._store.get_resources_by_id(resources_id)
        if kept is not None and kept.resources == resources:
            return kept
        return await self._store.update_resources(resources_id, resources)

    async def score(
        self, candidate: Candidate, dataset: Dataset[Any], tasks: Sequence[int], mode: RolloutMode, occasion: str
    ) -> list[Score]:
        """What the candidate gets on each of the tasks.

        A rollout that failed or took too long gets the failure score. One that succeeded without a reward has none.
        """
        rollouts = await self._run(candidate, dataset, tasks, mode, occasion)
        self.ends.update(map(_ending, rollouts))
        return [self._score(rollout) for rollout in rollouts]

    async def see(
        self, candidate: Candidate, dataset: Dataset[Any], tasks: Sequence[int], mode: RolloutMode, occasion: str
    ) -> list[Seen]:
        """What happens when it is run on the tasks."""
        rollouts = await self._run(candidate, dataset, tasks, mode, occasion)
        spans = await asyncio.gather(*(self._store.query_spans(each.rollout_id, "latest") for each in rollouts))
        return [Seen(rollout, list(found)) for rollout, found in zip(rollouts, spans, strict=True)]

    async def _run(
        self, candidate: Candidate, dataset: Dataset[Any], tasks: Sequence[int], mode: RolloutMode, occasion: str
    ) -> list[Rollout]:
        queued = await self._store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(
                    input=dataset[task],
                    mode=mode,
                    resources_id=resources_id_of(candidate),
                    config=self._config,
                    metadata={"key": f"apo/{candidate.id}/{occasion}/{mode}/{task}"},
                )
                for task in tasks
            ]
        )
        ids = [rollout.rollout_id for rollout in queued]
        ended = {each.rollout_id: each for each in await self._store.wait_for_rollouts(ids, self._timeout)}
        late = [rollout_id for rollout_id in ids if rollout_id not in ended]
        cancelled = await asyncio.gather(*(self._store.update_rollout(each, status="cancelled") for each in late))
        ended |= {each.rollout_id: each for each in cancelled}
        return [ended[rollout_id] for rollout_id in ids]

    def _score(self, rollout: Rollout) -> Score:
        return rollout.reward if rollout.status == "succeeded" else self._failure_score


def _ending(rollout: Rollout) -> str:
    return "without reward" if rollout.status == "succeeded" and rollout.reward is None else rollout.status


def resources_id_of(candidate: Candidate) -> str:
    """What the store calls the candidate."""
    return f"apo/{candidate.id}"
