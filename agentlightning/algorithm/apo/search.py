"""The beam search of APO: who is tried on which tasks, who stays, and what is said in the end.

It knows prompts only as candidates that can be proposed and evaluated. Choosing and judging use different rollouts: the
best of many noisy means is always too good, so the candidate that the search has chosen is tried once more, beside the
seed, on the whole validation set, and only what comes of that is reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from .comparison import Difference, Estimate, estimate, paired_difference

SHRINKING: Final = 4.0
"""Observations' worth of doubt: a candidate that was tried little counts as nearer to the others than it seems."""

FINALISTS: Final = 2
"""Times the beam's width, from all rounds: one that had bad luck in a round is not lost."""

Score = float | None


@dataclass
class Candidate:
    """A prompt, and where it comes from."""

    id: str
    prompt: str
    parent: str | None = None
    critique: str | None = None
    scores: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """By task of the validation set, all that it was given while the search was choosing."""

    @property
    def all_scores(self) -> list[float]:
        """Without their tasks."""
        return [score for scores in self.scores.values() for score in scores]


@dataclass(frozen=True)
class Plan:
    """How much is tried."""

    beam_width: int = 4
    branch_factor: int = 4
    beam_rounds: int = 3
    val_batch_size: int = 16
    validation_repeats: int = 3
    """How often seed and best are run on each task of the validation set in the end."""
    run_initial_validation: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What the search has found."""

    seed: Candidate
    best: Candidate
    seed_estimate: Estimate
    best_estimate: Estimate
    difference: Difference

    @property
    def is_improvement(self) -> bool:
        """The best prompt is better than the seed, as far as 95 % go."""
        return self.best is not self.seed and self.difference.is_improvement

    def __str__(self) -> str:
        said = f"seed {self.seed_estimate}, best {self.best_estimate}, difference {self.difference}"
        return f"Improvement shown: {said}" if self.is_improvement else f"No improvement shown: {said}"


Evaluate = Callable[[Candidate, Sequence[int], str], Awaitable[Sequence[Score]]]
"""The candidate's score on each of the tasks, in an occasion of this name; None where there is none."""

Propose = Callable[[Candidate, int, int], Awaitable[Candidate | None]]
"""A new candidate made of this parent, in this round, of this number; None where nothing usable came of it."""

Tell = Callable[[int, Sequence[Candidate]], Awaitable[Any]]
"""Called after each round with all who took part, the best first."""


class BeamSearch:
    """One search from a seed to a verdict."""

    def __init__(self, plan: Plan, n_tasks: int, evaluate: Evaluate, propose: Propose, tell: Tell) -> None:
        self._plan = plan
        self._n_tasks = n_tasks
        self._evaluate = evaluate
        self._propose = propose
        self._tell = tell
        self._known: list[Candidate] = []

    async def run(self, seed: Candidate) -> Verdict:
        """Search, then judge what was found."""
        self._known = [seed]
        if self._plan.run_initial_validation:
            await self._try([seed], range(self._n_tasks), "initial")
            await self._tell(0, [seed])
        beam = [seed]
        for number in range(1, self._plan.beam_rounds + 1):
            beam = await self._round(number, beam)
        finalists = [candidate for candidate in self._ranked(self._known) if candidate is not seed]
        finalists = finalists[: FINALISTS * self._plan.beam_width]
        return await self._judge(seed, await self._final(finalists) if finalists else seed)

    # Choosing

    async def _round(self, round: int, beam: list[Candidate]) -> list[Candidate]:
        children = await self._children(round, beam)
        self._known += children
        pool = [*beam, *children]
        first, second = self._batches(round)
        await self._try(pool, first, f"round {round}")
        await self._try(self._ranked(pool)[: (len(pool) + 1) // 2], second, f"round {round}, second look")
        ranked = self._ranked(pool)
        await self._tell(round, ranked)
        return ranked[: self._plan.beam_width]

    async def _children(self, round: int, beam: list[Candidate]) -> list[Candidate]:
        born = await asyncio.gather(
            *(
                self._propose(parent, round, place * self._plan.branch_factor + branch)
                for place, parent in enumerate(beam)
                for branch in range(self._plan.branch_factor)
            )
        )
        prompts = {candidate.prompt for candidate in self._known}
        children: list[Candidate] = []
        for child in born:
            if child is not None and child.prompt not in prompts:
                prompts.add(child.prompt)
                children.append(child)
        return children

    async def _final(self, finalists: list[Candidate]) -> Candidate:
        if len(finalists) > 1:
            await self._try(finalists, range(self._n_tasks), "final")
        return self._ranked(finalists)[0]

    async def _try(self, candidates: Sequence[Candidate], tasks: Sequence[int], occasion: str) -> None:
        """Evaluate all of them side by side, and keep what comes of it."""
        found = await asyncio.gather(*(self._evaluate(candidate, tasks, occasion) for candidate in candidates))
        for candidate, scores in zip(candidates, found, strict=True):
            for task, score in zip(tasks, scores, strict=True):
                if score is not None:
                    candidate.scores.setdefault(task, []).append(score)

    def _batches(self, round: int) -> tuple[list[int], list[int]]:
        """Tasks for everyone, and others for the better half; with few tasks the same ones."""
        size = min(self._plan.val_batch_size, self._n_tasks)
        shuffled = random.Random(f"{self._plan.seed}/{round}").sample(range(self._n_tasks), self._n_tasks)
        return sorted(shuffled[:size]), sorted(shuffled[-size:])

    def _ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        usual = self._usual_scores()
        return sorted(candidates, key=lambda candidate: _standing(candidate, usual), reverse=True)

    def _usual_scores(self) -> dict[int, float]:
        """What candidates get on each task, on average."""
        by_task: dict[int, list[float]] = {}
        for candidate in self._known:
            for task, scores in candidate.scores.items():
                by_task.setdefault(task, []).extend(scores)
        return {task: fmean(scores) for task, scores in by_task.items()}

    # Judging

    async def _judge(self, seed: Candidate, best: Candidate) -> Verdict:
        candidates = [seed] if best is seed else [seed, best]
        judged = await asyncio.gather(*(self._whole(candidate) for candidate in candidates))
        difference = paired_difference(judged[-1], judged[0])
        if difference.mean is not None and difference.mean <= 0:
            best = seed  # what was best by luck is not handed over
        return Verdict(seed, best, estimate(judged[0]), estimate(judged[-1]), difference)

    async def _whole(self, candidate: Candidate) -> list[Score]:
        """Its mean score on each task of the validation set, from rollouts that nobody has chosen by."""
        passes = await asyncio.gather(
            *(
                self._evaluate(candidate, range(self._n_tasks), f"judged {n + 1}")
                for n in range(self._plan.validation_repeats)
            )
        )
        by_task = ([score for score in scores if score is not None] for scores in zip(*passes, strict=True))
        return [fmean(scores) if scores else None for scores in by_task]


def _standing(candidate: Candidate, usual: Mapping[int, float]) -> float:
    """How much better it seems than others on the same tasks, doubted where it was tried little."""
    deviations = [score - usual[task] for task, scores in candidate.scores.items() for score in scores]
    return sum(deviations) / (len(deviations) + SHRINKING)
