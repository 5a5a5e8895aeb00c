"""Beam search over prompts: propose candidates, rank them, and compare the best candidate with the initial prompt.

The initial prompt is called the seed. The caller supplies the functions that propose and evaluate candidates. The best
of many noisy means is biased upwards, so the final comparison does not reuse the scores from the ranking. Instead, the
best candidate and the seed are run again on the whole validation set, and only the new scores are compared.
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
"""Number of average scores that the ranking adds to each candidate's own scores.

The added scores pull a candidate that has few scores of its own towards the average."""

FINALISTS_PER_BEAM: Final = 2
"""Maximum number of finalists, as a multiple of the beam width.

Finalists are the candidates that are evaluated on the whole validation set after the last round. They are chosen from
the candidates of all rounds, so that one unlucky round does not eliminate a good candidate."""

Score = float | None
"""A candidate's score on one task, or None if the rollout did not have a reward."""


@dataclass
class Candidate:
    """A prompt with its origin and its scores."""

    id: str
    prompt: str
    parent: str | None = None
    """Id of the candidate whose prompt was rewritten to create this one, or None for the seed."""
    critique: str | None = None
    """The critique of the parent's prompt that this prompt addresses, or None for the seed."""
    scores: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """All scores from the search, by the index of the validation task. The final comparison does not add any."""

    @property
    def score_estimate(self) -> Estimate:
        """The mean of all scores from the search, with its standard error."""
        return estimate([score for scores in self.scores.values() for score in scores])


@dataclass(frozen=True)
class SearchConfig:
    """Parameters of a beam search."""

    beam_width: int = 4
    """Maximum size of the beam, which is the set of candidates that are kept for the next round."""
    branch_factor: int = 4
    """Number of new candidates that each round derives from every candidate in the beam."""
    beam_rounds: int = 3
    val_batch_size: int = 16
    """Maximum number of validation tasks in a batch. Each round uses two batches."""
    validation_repeats: int = 3
    """Number of rollouts per validation task in the final comparison, for the seed and for the best candidate alike."""
    run_initial_validation: bool = True
    """If True, evaluate the seed on all validation tasks before the first round."""
    seed: int = 0
    """Seed of the random number generator that chooses tasks. Unrelated to the candidate called the seed."""


@dataclass(frozen=True)
class Verdict:
    """The best candidate and its comparison with the seed.

    `best` is the seed itself if the highest-ranked candidate was no better than the seed.
    """

    seed: Candidate
    best: Candidate
    seed_estimate: Estimate
    best_estimate: Estimate
    """Estimate for the highest-ranked candidate, even if that candidate is not `best`."""
    difference: Difference

    @property
    def is_improvement(self) -> bool:
        """True if the best candidate is better than the seed at the 95 % confidence level."""
        return self.best is not self.seed and self.difference.is_improvement

    def __str__(self) -> str:
        result = "Improvement shown" if self.is_improvement else "No improvement shown"
        return f"{result}: seed {self.seed_estimate}, best {self.best_estimate}, difference {self.difference}"


Evaluate = Callable[[Candidate, Sequence[int], str], Awaitable[Sequence[Score]]]
"""Function that evaluates a candidate on the tasks with the given indexes and returns its score on each task.

The third argument names the current phase of the search."""

Propose = Callable[[Candidate, int, int], Awaitable[Candidate | None]]
"""Function that derives a new candidate from a parent candidate.

The other arguments are the number of the round and the number of the new candidate within the round. The function
returns None if the models did not write a usable prompt."""

OnRoundEnd = Callable[[int, Sequence[Candidate]], Awaitable[Any]]
"""Function called after each round with the number of the round and the candidates that the round ranked, best first.

The initial validation counts as round 0."""


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
        """Run the search from `seed`, compare the best candidate with `seed`, and return the verdict."""
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
        """Choose two batches of tasks at random: one for all candidates, and one for the better half of them.

        Returns the indexes of the tasks. The batches overlap if there are too few tasks for two separate ones.
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
            best = seed  # the highest-ranked candidate was no better than the seed in the new rollouts
        return Verdict(seed, best, estimate(scores[0]), estimate(scores[-1]), difference)

    async def _final_scores(self, candidate: Candidate) -> list[Score]:
        """Run new rollouts, which do not affect the ranking, and return the mean score of each validation task.

        The mean is None for a task without any rewards.
        """
        repeats = range(1, self.config.validation_repeats + 1)
        passes = await asyncio.gather(*(self.evaluate(candidate, range(self.n_tasks), f"judged {n}") for n in repeats))
        by_task = ([score for score in scores if score is not None] for scores in zip(*passes, strict=True))
        return [fmean(scores) if scores else None for scores in by_task]


def _shrunken_advantage(candidate: Candidate, means: Mapping[int, float]) -> float:
    """Return the mean difference between the candidate's scores and the average scores on the same tasks.

    The difference is shrunk towards 0; the fewer scores the candidate has, the stronger the effect. `means` maps each
    task's index to the mean score of all candidates on that task.
    """
    deviations = [score - means[task] for task, scores in candidate.scores.items() for score in scores]
    return sum(deviations) / (len(deviations) + SHRINKAGE)
