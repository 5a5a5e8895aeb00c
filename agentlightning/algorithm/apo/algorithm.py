"""APO: a beam search over prompts, led by what a model has to say about the runs."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ...types import Dataset, NamedResources, PromptTemplate, RolloutMode
from ..base import Algorithm
from ..retries import LOST_RUNNER
from .rewriting import Rewriter, lost_placeholders
from .search import BeamSearch, Candidate, Plan, Score, Verdict
from .trials import Trials, resources_id_of

logger = logging.getLogger(__name__)


class APO(Algorithm):
    """Improves the prompt template among the trainer's `initial_resources`.

    In each of `beam_rounds` rounds every prompt of the beam is run on `gradient_batch_size` training tasks, criticised
    by `gradient_model`, and rewritten `branch_factor` times by `apply_edit_model`. All are tried side by side on
    `val_batch_size` validation tasks, the better half on as many others, and the best `beam_width` go on. In the end
    seed and best are compared on the whole validation set, `validation_repeats` times each, with fresh rollouts.

    `resource_name` says which prompt, where there are several. A failed rollout scores `failure_score`. With the same
    `seed` and the same answers a run goes the same way.
    """

    def __init__(
        self,
        async_openai_client: Any,
        *,
        gradient_model: str = "gpt-5-mini",
        apply_edit_model: str = "gpt-4.1-mini",
        diversity_temperature: float = 1.0,
        gradient_batch_size: int = 4,
        val_batch_size: int = 16,
        beam_width: int = 4,
        branch_factor: int = 4,
        beam_rounds: int = 3,
        rollout_batch_timeout: float = 3600.0,
        run_initial_validation: bool = True,
        validation_repeats: int = 3,
        rollout_timeout: float | None = None,
        failure_score: float = 0.0,
        resource_name: str | None = None,
        seed: int = 0,
    ) -> None:
        self._rewriter = Rewriter(async_openai_client, gradient_model, apply_edit_model, diversity_temperature)
        self._plan = Plan(
            beam_width=beam_width,
            branch_factor=branch_factor,
            beam_rounds=beam_rounds,
            val_batch_size=val_batch_size,
            validation_repeats=validation_repeats,
            run_initial_validation=run_initial_validation,
            seed=seed,
        )
        self._gradient_batch_size = gradient_batch_size
        self._batch_timeout = rollout_batch_timeout
        self._config = LOST_RUNNER.model_copy(update={"timeout_seconds": rollout_timeout})
        self._failure_score = failure_score
        self._resource_name = resource_name
        self._best: PromptTemplate | None = None
        self._verdict: Verdict | None = None
        self._candidates: list[Candidate] = []
        self._rejected: dict[str, str] = {}
        self._error: Exception | None = None

    def get_best_prompt(self) -> PromptTemplate:
        """The prompt that was best; the seed where nothing was better. For after the run."""
        if self._best is None:
            raise RuntimeError("APO has not found anything yet: call Trainer.fit first")
        return self._best

    async def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Verdict:
        """Search, judge, and store the best as `apo/best`."""
        train, val = _datasets(train_dataset, val_dataset)
        self._trials = self._make_trials()
        seed = Candidate("seed", self._trials.seed.template)
        self._candidates, self._rejected = [seed], {}
        await self._trials.keep(seed)
        search = BeamSearch(self._plan, len(val), self._evaluating(val), self._proposing(train), self._tell)
        self._verdict = await search.run(seed)
        if not self._trials.ends.keys() & {"succeeded"}:
            logger.warning("No rollout has a reward; nothing could be compared.")
        await self._keep_best(self._verdict)
        logger.info("%s", self._verdict)
        return self._verdict

    def report(self) -> dict[str, Any]:
        """The verdict, every candidate, and how the rollouts ended."""
        verdict = self._verdict
        if verdict is None:
            return {}
        return {
            "summary": str(verdict),
            "improvement_shown": verdict.is_improvement,
            "seed_prompt": verdict.seed.prompt,
            "best_prompt": verdict.best.prompt,
            "best": resources_id_of(verdict.best),
            "seed": verdict.seed_estimate.model_dump(),
            "tried": verdict.best_estimate.model_dump(),
            "difference": verdict.difference.model_dump(),
            "candidates": [_told(candidate) for candidate in sorted(self._candidates, key=_age)],
            "rejected": dict(sorted(self._rejected.items())),
            "rollouts": dict(self._trials.ends),
        }

    # The prompt

    def _make_trials(self) -> Trials:
        resources = self.get_initial_resources() or {}
        return Trials(
            self.get_store(),
            resources,
            _prompt_among(resources, self._resource_name),
            timeout=self._batch_timeout,
            failure_score=self._failure_score,
            config=self._config,
        )

    async def _keep_best(self, verdict: Verdict) -> None:
        self._best = self._trials.prompt(verdict.best.prompt)
        best = Candidate("best", verdict.best.prompt, verdict.best.id, verdict.best.critique)
        self.best_resources = await self._trials.keep(best, verdict=str(verdict))

    # What the search asks for

    def _evaluating(self, dataset: Dataset[Any]) -> Any:
        mode: RolloutMode = "val"

        async def evaluate(candidate: Candidate, tasks: Sequence[int], occasion: str) -> Sequence[Score]:
            return await self._trials.score(candidate, dataset, tasks, mode, occasion)

        return evaluate

    def _proposing(self, dataset: Dataset[Any]) -> Any:
        async def propose(parent: Candidate, round: int, number: int) -> Candidate | None:
            name = f"r{round}c{number}"
            tasks = self._sample(name, len(dataset))
            try:
                child = await self._rewritten(parent, name, dataset, tasks)
            except Exception as error:
                logger.exception("The candidate %s could not be written", name)
                self._rejected[name] = f"{type(error).__name__}: {error}"
                self._error = error
                return None
            return child if await self._is_usable(child) else None

        return propose

    async def _rewritten(self, parent: Candidate, name: str, dataset: Dataset[Any], tasks: list[int]) -> Candidate:
        journal, prompt = self.get_journal(), self._trials.prompt(parent.prompt)

        async def criticise() -> str:
            seen = await self._trials.see(parent, dataset, tasks, "train", f"critique for {name}")
            return await self._rewriter.critique(prompt, seen)

        critique = await journal.once(f"apo/{name}/critique", criticise)
        text = await journal.once(f"apo/{name}/edit", lambda: self._rewriter.edit(prompt, critique))
        return Candidate(name, text, parent.id, critique)

    async def _is_usable(self, child: Candidate) -> bool:
        lost = lost_placeholders(self._trials.seed, child.prompt)
        if lost or not child.prompt:
            self._rejected[child.id] = f"it has lost {', '.join(lost)}" if lost else "it is empty"
            logger.warning("The candidate %s is not evaluated: %s.", child.id, self._rejected[child.id])
            await self._trials.keep(child, rejected=self._rejected[child.id])
            return False
        await self._trials.keep(child)
        self._candidates.append(child)
        return True

    def _sample(self, name: str, count: int) -> list[int]:
        chosen = random.Random(f"{self._plan.seed}/{name}").sample(range(count), min(count, self._gradient_batch_size))
        return sorted(chosen)

    async def _tell(self, round: int, ranked: Sequence[Candidate]) -> None:
        if round and len(self._candidates) == 1 and self._error:
            raise self._error  # no candidate at all: the models that should write them cannot be asked
        await asyncio.gather(*(self._trials.keep(candidate) for candidate in ranked))
        best = ranked[0]
        scores = best.all_scores
        self.log_metrics(
            {
                "apo/best": best.id,
                "apo/best_mean": fmean(scores) if scores else None,
                "apo/tried": len(ranked),
                "apo/rejected": len(self._rejected),
            },
            round,
        )


def _datasets(train: Dataset[Any] | None, val: Dataset[Any] | None) -> tuple[Dataset[Any], Dataset[Any]]:
    train, val = train or val, val or train
    if not train or not val:
        raise ValueError("APO needs tasks: give fit a train_dataset, a val_dataset, or better both")
    return train, val


def _prompt_among(resources: NamedResources, name: str | None) -> str:
    prompts = [each for each, resource in resources.items() if isinstance(resource, PromptTemplate)]
    if name is None and len(prompts) == 1:
        return prompts[0]
    if name in prompts:
        return name
    there = ", ".join(prompts) or "no prompt template"
    raise ValueError(
        f"APO improves one prompt template of the trainer's initial_resources, and there is {there}: "
        "give Trainer(initial_resources={'prompt_template': agl.PromptTemplate(template=…)}), and APO(resource_name=…) "
        "where there are several"
    )


def _age(candidate: Candidate) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", candidate.id)))


def _told(candidate: Candidate) -> dict[str, Any]:
    scores = candidate.all_scores
    return {
        "id": resources_id_of(candidate),
        "parent": candidate.parent,
        "prompt": candidate.prompt,
        "mean": fmean(scores) if scores else None,
        "n": len(scores),
    }
