"""Error rates of APO's search, over 200 simulated runs each: false claims of improvement, and improvements found."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from agentlightning.algorithm.apo import Candidate, Verdict
from agentlightning.algorithm.apo.search import BeamSearch, SearchConfig

RUNS = 200
TASKS = 60
BETTER = "the better prompt"


def coins(chance: random.Random) -> list[float]:
    """Return success rates of one half: the highest variance of rewards 0 and 1."""
    return [0.5] * TASKS


def easy_and_hard(chance: random.Random) -> list[float]:
    """Return success rates that are mostly near 0 or near 0.8."""
    return [0.8 * chance.betavariate(0.8, 0.8) for _ in range(TASKS)]


def simulate(number: int, make_tasks, *, with_better_prompt: bool) -> Verdict:
    """Run one search with the default configuration. With a better prompt, one proposal has +0.2 on every task."""
    chance = random.Random(f"{make_tasks.__name__}/{number}/{with_better_prompt}")
    rates, config = make_tasks(chance), SearchConfig(seed=number)
    proposals = config.branch_factor * (1 + config.beam_width * (config.beam_rounds - 1))
    better = chance.randrange(proposals) if with_better_prompt else None
    prompts = (BETTER if n == better else f"prompt {n}" for n in range(proposals))

    async def propose(parent: Candidate, round: int, branch: int) -> Candidate:
        return Candidate(f"r{round}c{branch}", next(prompts), parent.id)

    async def evaluate(candidate: Candidate, tasks: Sequence[int], phase: str) -> list[float]:
        bonus = 0.2 if candidate.prompt == BETTER else 0.0
        return [float(chance.random() < rates[task] + bonus) for task in tasks]

    async def on_round_end(round: int, ranked: Sequence[Candidate]) -> None: ...

    search = BeamSearch(config, TASKS, evaluate, propose, on_round_end)
    return asyncio.run(search.run(Candidate("seed", "the seed")))


@pytest.mark.parametrize("make_tasks", [coins, easy_and_hard])
def test_equal_prompts_show_an_improvement_in_at_most_one_run_of_twenty(make_tasks):
    verdicts = [simulate(number, make_tasks, with_better_prompt=False) for number in range(RUNS)]

    claimed = sum(verdict.is_improvement for verdict in verdicts)
    print(f"{make_tasks.__name__}: {claimed} of {RUNS} runs with equal prompts claim an improvement")
    assert claimed <= RUNS * 0.05


@pytest.mark.parametrize("make_tasks", [coins, easy_and_hard])
def test_better_prompt_is_found_and_shown_in_four_runs_of_five(make_tasks):
    verdicts = [simulate(number, make_tasks, with_better_prompt=True) for number in range(RUNS)]

    found = sum(verdict.best.prompt == BETTER for verdict in verdicts)
    shown = sum(verdict.is_improvement and verdict.best.prompt == BETTER for verdict in verdicts)
    print(f"{make_tasks.__name__}: the better prompt is found in {found} of {RUNS} runs and shown in {shown}")
    assert shown >= RUNS * 0.8
