"""Evaluation of candidate prompts: saves them as resources in the store and runs rollouts with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

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
from .rewriting import RolloutTrace
from .search import Candidate, Score

DETAILS: Final = "apo"
"""Name of the resource that contains a candidate's parent, critique and scores."""


@dataclass
class CandidateEvaluator:
    """Evaluates candidates for one prompt resource. All other resources stay unchanged."""

    store: LightningStore
    resources: NamedResources
    resource_name: str
    timeout: float
    """Maximum time in seconds to wait for a batch of rollouts. Rollouts that take longer are cancelled."""
    failure_score: float
    """Score of a rollout that does not succeed."""
    config: RolloutConfig
    outcomes: Counter[str] = field(default_factory=Counter[str])
    """Number of scored rollouts per status. Rollouts that succeeded without a reward count as `without reward`."""

    @property
    def seed(self) -> PromptTemplate:
        """The prompt to improve, as given in the initial resources."""
        prompt = self.resources[self.resource_name]
        assert isinstance(prompt, PromptTemplate)
        return prompt

    def prompt(self, text: str) -> PromptTemplate:
        """Return a copy of the seed prompt with `text` as its template."""
        return self.seed.model_copy(update={"template": text})

    async def save(self, candidate: Candidate, **details: Any) -> ResourcesUpdate:
        """Store the prompt and details of a candidate as a new version of its resources, and return that version.

        If they are the same as in the latest version, return the latest version instead of storing a new one.
        """
        resources_id = candidate_resources_id(candidate)
        value = {
            "parent": candidate.parent and f"apo/{candidate.parent}",
            "critique": candidate.critique,
            "scores": {str(task): scores for task, scores in sorted(candidate.scores.items())},
            **candidate.score_estimate.model_dump(),
            **details,
        }
        resources = {
            **self.resources,
            self.resource_name: self.prompt(candidate.prompt),
            DETAILS: Config(value=value),
        }
        latest = await self.store.get_resources_by_id(resources_id)
        if latest is not None and latest.resources == resources:
            return latest
        return await self.store.update_resources(resources_id, resources)

    async def score(
        self, dataset: Dataset[Any], mode: RolloutMode, candidate: Candidate, tasks: Sequence[int], phase: str
    ) -> list[Score]:
        """Run the tasks with the candidate's prompt and return the score of each task's rollout.

        `tasks` contains indexes into `dataset`. A rollout that does not succeed gets the failure score, and a rollout
        that succeeds without a reward gets None. `phase` names the current part of the search. It is included in each
        rollout's key, so that a resumed run finds the existing rollout instead of creating a new one.
        """
        rollouts = await self._run(dataset, mode, candidate, tasks, phase)
        self.outcomes.update(map(_outcome, rollouts))
        return [rollout.reward if rollout.status == "succeeded" else self.failure_score for rollout in rollouts]

    async def trace(
        self, dataset: Dataset[Any], mode: RolloutMode, candidate: Candidate, tasks: Sequence[int], phase: str
    ) -> list[RolloutTrace]:
        """Run the tasks as `score` does, but return each rollout with the spans of its latest attempt."""
        rollouts = await self._run(dataset, mode, candidate, tasks, phase)
        spans = await asyncio.gather(*(self.store.query_spans(each.rollout_id, "latest") for each in rollouts))
        return list(zip(rollouts, spans, strict=True))

    async def _run(
        self, dataset: Dataset[Any], mode: RolloutMode, candidate: Candidate, tasks: Sequence[int], phase: str
    ) -> list[Rollout]:
        queued = await self.store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(
                    input=dataset[task],
                    mode=mode,
                    resources_id=candidate_resources_id(candidate),
                    config=self.config,
                    metadata={"key": f"apo/{candidate.id}/{phase}/{mode}/{task}"},
                )
                for task in tasks
            ]
        )
        ids = [rollout.rollout_id for rollout in queued]
        finished = {each.rollout_id: each for each in await self.store.wait_for_rollouts(ids, self.timeout)}
        late = [rollout_id for rollout_id in ids if rollout_id not in finished]
        cancelled = await asyncio.gather(*(self.store.update_rollout(each, status="cancelled") for each in late))
        finished |= {each.rollout_id: each for each in cancelled}
        return [finished[rollout_id] for rollout_id in ids]


def _outcome(rollout: Rollout) -> str:
    return "without reward" if rollout.status == "succeeded" and rollout.reward is None else rollout.status


def candidate_resources_id(candidate: Candidate) -> str:
    """Return the id under which the candidate's resources are stored."""
    return f"apo/{candidate.id}"
