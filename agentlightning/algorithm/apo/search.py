"""Beam search over prompts: propose candidates, rank them, and compare the best candidate with the seed.

The functions that propose and evaluate candidates are injected. The ranking and the final comparison use different
rollouts: the best of many noisy means is biased upwards, so the best candidate and the seed are run again on the
whole validation set, and only that result is reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from ..comparison import Difference, Estimate, estimate, paired_difference

SHRINKAGE: Final = 4.0
"""Number of imaginary average scores that are added to each candidate's scores for the ranking.

They pull a candidate that has few real scores towards the average."""

FINALISTS_PER_BEAM: Final = 2
"""Maximum number of finalists, as a multiple of the beam width.

The finalists are chosen from the candidates of all rounds, so that one unlucky round does not eliminate a good one."""

Score = float | None
"""The score of a candidate on one task, or None if there was no reward."""


@dataclass
class Candidate:
    """A prompt with its origin and its scores."""

    id: str
    prompt: str
    parent: str | None = None
    """Id of the candidate that was rewritten to get this one."""
    critique: str | None = None
    """The critique of the parent's prompt."""
    scores: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Scores from the search phase, by validation task index."""

    @property
    def score_estimate(self) -> Estimate:
        """The mean of the scores on all tasks, with its standard error."""
        return estimate([score for scores in self.scores.values() for score in scores])


@dataclass(frozen=True)
class SearchConfig:
    """Parameters of the search."""

    beam_width: int = 4
    """Maximum number of candidates that a round passes on to the next one."""
    branch_factor: int = 4
    """Number of new candidates that a round derives from each candidate passed on to it."""
    beam_rounds: int = 3
    val_batch_size: int = 16
    """Maximum number of validation tasks in each of a round's two batches."""
    validation_repeats: int = 3
    """Number of final rollouts on each validation task, both for the seed and for the best candidate."""
    run_initial_validation: bool = True
    """Evaluate the seed on all validation tasks before the first round."""
    seed: int = 0
    """Seed for the random choice of tasks; not related to the candidate called seed."""


@dataclass(frozen=True)
class Verdict:
    """The best candidate and its comparison with the seed."""

    seed: Candidate
    best: Candidate
    seed_estimate: Estimate
    best_estimate: Estimate
    """Estimate for the highest-ranked candidate, even if the comparison found it no better than the seed."""
    difference: Difference

    @property
    def is_improvement(self) -> bool:
        """True if the best prompt beats the seed at the 95 % confidence level."""
        return self.best is not self.seed and self.difference.is_improvement

    def __str__(self) -> str:
        result = "Improvement shown" if self.is_improvement else "No improvement shown"
        return f"{result}: seed {self.seed_estimate}, best {self.best_estimate}, difference {self.difference}"


Evaluate = Callable[[Candidate, Sequence[int], str], Awaitable[Sequence[Score]]]
"""Evaluate a candidate on the tasks with the given indexes, and return its score on each task.

The third argument names the phase of the search."""

Propose = Callable[[Candidate, int, int], Awaitable[Candidate | None]]
"""Derive a candidate from a parent, given the number of the round and the new candidate's number in the round.

Return None if the models did not write a usable prompt."""

OnRoundEnd = Callable[[int, Sequence[Candidate]], Awaitable[Any]]
"""Called after each round with its number and its candidates, best first. The initial validation is round 0."""


@dataclass
class BeamSearch:
    """One search, from the seed to the verdict."""

    config: SearchConfig
    n_tasks: int
    """Number of validation tasks."""
    evaluate: Evaluate
    propose: Propose
    on_round_end: OnRoundEnd
    _known: list[Candidate] = field(default_factory=list[Candidate])

    async def run(self, seed: Candidate) -> Verdict:
        """Run the search, then compare the best candidate with the seed."""
        self._known = [seed]
        if self.config.run_initial_validation:
            await self._evaluate_all([seed], range(self.n_tasks), "initial")
            await self.on_round_end(0, [seed])
        beam = [seed]
        for number in range(1, self.config.beam_rounds + 1):
            beam = await self._run_round(number, beam)
        finalists = [candidate for candidate in self._ranked(self._known) if candidate is not seed]
        finalists = finalists[: FINALISTS_PER_BEAM * self.config.beam_width]
        return await self._compare(seed, await self._choose(finalists) if finalists else seed)

    async def _run_round(self, round: int, beam: list[Candidate]) -> list[Candidate]:
        children = await self._expand(round, beam)
        self._known += children
        pool = [*beam, *children]
        first, second = self._task_batches(round)
        await self._evaluate_all(pool, first, f"round {round}")
        better_half = self._ranked(pool)[: (len(pool) + 1) // 2]
        await self._evaluate_all(better_half, second, f"round {round}, second look")
        ranked = self._ranked(pool)
        await self.on_round_end(round, ranked)
        return ranked[: self.config.beam_width]

    async def _expand(self, round: int, beam: list[Candidate]) -> list[Candidate]:
        branches = self.config.branch_factor
        proposed = await asyncio.gather(
            *(
                self.propose(parent, round, n * branches + branch)
                for n, parent in enumerate(beam)
                for branch in range(branches)
            )
        )
        known = {candidate.prompt for candidate in self._known}
        unique: dict[str, Candidate] = {}
        for child in proposed:
            if child is not None and child.prompt not in known:
                unique.setdefault(child.prompt, child)
        return list(unique.values())

    async def _choose(self, finalists: list[Candidate]) -> Candidate:
        if len(finalists) > 1:
            await self._evaluate_all(finalists, range(self.n_tasks), "final")
        return self._ranked(finalists)[0]

    async def _evaluate_all(self, candidates: Sequence[Candidate], tasks: Sequence[int], phase: str) -> None:
        """Evaluate the candidates concurrently and record their scores."""
        results = await asyncio.gather(*(self.evaluate(candidate, tasks, phase) for candidate in candidates))
        for candidate, scores in zip(candidates, results, strict=True):
            for task, score in zip(tasks, scores, strict=True):
                if score is not None:
                    candidate.scores.setdefault(task, []).append(score)

    def _task_batches(self, round: int) -> tuple[list[int], list[int]]:
        """Return the indexes of a batch of tasks for all candidates, and of another batch for the better half.

        The batches overlap if there are fewer tasks than the two batches need.
        """
        size = min(self.config.val_batch_size, self.n_tasks)
        shuffled = random.Random(f"{self.config.seed}/{round}").sample(range(self.n_tasks), self.n_tasks)
        return sorted(shuffled[:size]), sorted(shuffled[-size:])

    def _ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        means = self._mean_by_task()
        return sorted(candidates, key=lambda candidate: _shrunken_advantage(candidate, means), reverse=True)

    def _mean_by_task(self) -> dict[int, float]:
        by_task: dict[int, list[float]] = {}
        for candidate in self._known:
            for task, scores in candidate.scores.items():
                by_task.setdefault(task, []).extend(scores)
        return {task: fmean(scores) for task, scores in by_task.items()}

    async def _compare(self, seed: Candidate, best: Candidate) -> Verdict:
        candidates = [seed] if best is seed else [seed, best]
        scores = await asyncio.gather(*(self._final_scores(candidate) for candidate in candidates))
        difference = paired_difference(scores[-1], scores[0])
        if difference.mean is not None and difference.mean <= 0:
            best = seed  # in new rollouts, the highest-ranked candidate was no better than the seed
        return Verdict(seed, best, estimate(scores[0]), estimate(scores[-1]), difference)

    async def _final_scores(self, candidate: Candidate) -> list[Score]:
        """Run new rollouts, which do not affect the ranking, and return the mean score on each validation task."""
        repeats = range(1, self.config.validation_repeats + 1)
        passes = await asyncio.gather(*(self.evaluate(candidate, range(self.n_tasks), f"judged {n}") for n in repeats))
        by_task = ([score for score in scores if score is not None] for scores in zip(*passes, strict=True))
        return [fmean(scores) if scores else None for scores in by_task]


def _shrunken_advantage(candidate: Candidate, means: Mapping[int, float]) -> float:
    """Return the mean difference between the candidate's scores and `means`, shrunk towards 0 if it has few scores.

    `means` maps each task's index to the mean score of all candidates on it.
    """
    deviations = [score - means[task] for task, scores in candidate.scores.items() for score in scores]
    return sum(deviations) / (len(deviations) + SHRINKAGE)
