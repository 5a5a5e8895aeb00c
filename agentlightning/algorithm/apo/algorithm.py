"""APO (automatic prompt optimisation): a beam search over prompts, guided by critiques that a model writes."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...types import Dataset, NamedResources, PromptTemplate
from ..base import RETRY_LOST_RUNNERS, Algorithm
from .evaluation import CandidateEvaluator, candidate_resources_id
from .rewriting import Rewriter, missing_placeholders
from .search import BeamSearch, Candidate, SearchConfig, Verdict

logger = logging.getLogger(__name__)


class APO(Algorithm):
    """Improve the prompt template in the trainer's `initial_resources`.

    The search begins with that template, called the seed prompt. If `run_initial_validation` is True, the seed prompt
    is first evaluated on the whole validation set. The beam is the set of prompts that are kept for the next round; at
    first, it contains only the seed prompt. Each of the `beam_rounds` rounds consists of these steps:

    1. Rewrite every prompt in the beam `branch_factor` times. For each rewrite, run the agent with the prompt on
       `gradient_batch_size` training tasks, let `gradient_model` write a critique based on these rollouts, and let
       `apply_edit_model` write a new prompt.
    2. Evaluate the beam and the new prompts on the same `val_batch_size` validation tasks, and the better half of them
       on a second batch of that size.
    3. Keep the best `beam_width` prompts as the next beam.

    After the last round, the best prompts of all rounds are evaluated on the whole validation set. The best of these is
    compared with the seed prompt: both are run `validation_repeats` times on the whole validation set.

    `resource_name` selects the prompt template if the resources contain several. `rollout_timeout` is the time limit
    for an attempt, in seconds. A rollout is cancelled if it has not finished `rollout_batch_timeout` seconds after its
    batch was enqueued. A rollout that does not succeed gets the score `failure_score`. `diversity_temperature` is the
    sampling temperature of both models. Two runs with the same `seed` for random choices and the same model responses
    give the same result.
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
        self._config = SearchConfig(
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
        self._rollout_config = RETRY_LOST_RUNNERS.model_copy(update={"timeout_seconds": rollout_timeout})
        self._failure_score = failure_score
        self._resource_name = resource_name
        self._verdict: Verdict | None = None
        self._candidates: list[Candidate] = []
        self._rejected: dict[str, str] = {}
        self._error: Exception | None = None

    def get_best_prompt(self) -> PromptTemplate:
        """Return the best prompt that the finished run found, or the seed prompt if no other prompt was better."""
        if self._verdict is None:
            raise RuntimeError("APO has no result yet: call Trainer.fit first")
        return self._evaluator.prompt(self._verdict.best.prompt)

    async def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Verdict:
        """Search for a better prompt, compare it with the seed prompt, and save the better one as resources `apo/best`.

        If only one dataset is given, it is used for both training and validation.
        """
        train, val = _require_datasets(train_dataset, val_dataset)
        self._evaluator = self._make_evaluator()
        seed = Candidate("seed", self._evaluator.seed.template)
        self._candidates, self._rejected = [seed], {}
        await self._evaluator.save(seed)
        evaluate, propose = partial(self._evaluator.score, val, "val"), partial(self._propose, train)
        verdict = await BeamSearch(self._config, len(val), evaluate, propose, self._on_round_end).run(seed)
        if not self._evaluator.outcomes["succeeded"]:
            logger.warning("No rollout has a reward, so prompts could not be compared; make the agent emit a reward.")
        await self._save_best(verdict)
        logger.info("%s", verdict)
        return verdict

    def report(self) -> dict[str, Any]:
        """Return the verdict, the accepted and rejected candidates, and the number of rollouts per outcome.

        The dict is empty if the run did not reach a verdict.
        """
        verdict = self._verdict
        if verdict is None:
            return {}
        return {
            "summary": str(verdict),
            "improvement_shown": verdict.is_improvement,
            "seed_prompt": verdict.seed.prompt,
            "best_prompt": verdict.best.prompt,
            "best": candidate_resources_id(verdict.best),
            "seed": verdict.seed_estimate.model_dump(),
            "tried": verdict.best_estimate.model_dump(),
            "difference": verdict.difference.model_dump(),
            "candidates": [_summary(candidate) for candidate in sorted(self._candidates, key=_creation_order)],
            "rejected": dict(sorted(self._rejected.items())),
            "rollouts": dict(self._evaluator.outcomes),
        }

    def _make_evaluator(self) -> CandidateEvaluator:
        resources = self.get_initial_resources() or {}
        return CandidateEvaluator(
            self.get_store(),
            resources,
            _prompt_name(resources, self._resource_name),
            timeout=self._batch_timeout,
            failure_score=self._failure_score,
            config=self._rollout_config,
        )

    async def _save_best(self, verdict: Verdict) -> None:
        self._verdict = verdict
        best = Candidate("best", verdict.best.prompt, verdict.best.id, verdict.best.critique)
        self.best_resources = await self._evaluator.save(best, verdict=str(verdict))

    async def _propose(self, dataset: Dataset[Any], parent: Candidate, round: int, number: int) -> Candidate | None:
        name = f"r{round}c{number}"
        try:
            child = await self._rewrite(parent, name, dataset)
        except Exception as error:
            logger.exception("Candidate %s could not be written", name)
            self._rejected[name] = f"{type(error).__name__}: {error}"
            self._error = error
            return None
        return child if await self._accept(child) else None

    async def _rewrite(self, parent: Candidate, name: str, dataset: Dataset[Any]) -> Candidate:
        journal, prompt = self.get_journal(), self._evaluator.prompt(parent.prompt)
        batch_size = min(len(dataset), self._gradient_batch_size)
        tasks = sorted(random.Random(f"{self._config.seed}/{name}").sample(range(len(dataset)), batch_size))

        async def criticise() -> str:
            traces = await self._evaluator.trace(dataset, "train", parent, tasks, f"critique for {name}")
            return await self._rewriter.critique(prompt, traces)

        critique = await journal.once(f"apo/{name}/critique", criticise)
        text = await journal.once(f"apo/{name}/edit", lambda: self._rewriter.edit(prompt, critique))
        return Candidate(name, text, parent.id, critique)

    async def _accept(self, child: Candidate) -> bool:
        missing = missing_placeholders(self._evaluator.seed, child.prompt)
        if missing or not child.prompt:
            reason = f"the prompt lacks {', '.join(missing)}" if missing else "the prompt is empty"
            self._rejected[child.id] = reason
            logger.warning("Candidate %s was rejected: %s.", child.id, reason)
            await self._evaluator.save(child, rejected=reason)
            return False
        await self._evaluator.save(child)
        self._candidates.append(child)
        return True

    async def _on_round_end(self, round: int, ranked: Sequence[Candidate]) -> None:
        if round and len(self._candidates) == 1 and self._error:
            raise self._error  # no candidate could be written, probably because a model is unreachable
        await asyncio.gather(*(self._evaluator.save(candidate) for candidate in ranked))
        metrics = {
            "apo/best": ranked[0].id,
            "apo/best_mean": ranked[0].score_estimate.mean,
            "apo/tried": len(ranked),
            "apo/rejected": len(self._rejected),
        }
        self.log_metrics(metrics, round)


def _require_datasets(train: Dataset[Any] | None, val: Dataset[Any] | None) -> tuple[Dataset[Any], Dataset[Any]]:
    train, val = train or val, val or train
    if not train or not val:
        raise ValueError("APO needs tasks: pass a train_dataset or a val_dataset to fit, or preferably both")
    return train, val


def _prompt_name(resources: NamedResources, name: str | None) -> str:
    prompts = [each for each, resource in resources.items() if isinstance(resource, PromptTemplate)]
    if name is None and len(prompts) == 1:
        return prompts[0]
    if name in prompts:
        return name
    raise ValueError(
        "APO improves one prompt template of the trainer's initial_resources, which contain "
        f"{', '.join(prompts) or 'no prompt template'}: pass "
        "Trainer(initial_resources={'prompt_template': agl.PromptTemplate(template=…)}), and APO(resource_name=…) "
        "if there are several"
    )


def _creation_order(candidate: Candidate) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", candidate.id)))


def _summary(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate_resources_id(candidate),
        "parent": candidate.parent,
        "prompt": candidate.prompt,
        "mean": candidate.score_estimate.mean,
        "n": candidate.score_estimate.n,
    }
