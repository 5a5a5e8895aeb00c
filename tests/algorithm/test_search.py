"""What APO's search may claim, over 200 simulated runs each: nothing where nothing is, and what is there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from agentlightning.algorithm.apo import Candidate, Verdict
from agentlightning.algorithm.apo.search import BeamSearch, SearchConfig

RUNS = 200
TASKS = 60


def coins(chance: random.Random) -> list[float]:
    """Every task is a coin: the most noise that rewards of 0 and 1 can have."""
    return [0.5] * TASKS


def easy_and_hard(chance: random.Random) -> list[float]:
    """Most tasks are nearly always solved or nearly never."""
    return [0.8 * chance.betavariate(0.8, 0.8) for _ in range(TASKS)]


WINNER = "the winner"


def simulate(number: int, make_tasks, *, better: bool) -> Verdict:
    """One run with the default plan. One of the prompts written has +0.2 on every task, or none has."""
    chance = random.Random(f"{make_tasks.__name__}/{number}/{better}")
    rewards, plan = make_tasks(chance), SearchConfig(seed=number)
    written = plan.branch_factor * (1 + plan.beam_width * (plan.beam_rounds - 1))
    lucky = chance.randrange(written) if better else None
    prompts = (WINNER if n == lucky else f"prompt {n}" for n in range(written))

    async def propose(parent: Candidate, round: int, branch: int) -> Candidate:
        return Candidate(f"r{round}c{branch}", next(prompts), parent.id)

    async def evaluate(candidate: Candidate, tasks: Sequence[int], occasion: str) -> list[float]:
        more = 0.2 if candidate.prompt == WINNER else 0.0
        return [float(chance.random() < rewards[task] + more) for task in tasks]

    async def tell(round: int, ranked: Sequence[Candidate]) -> None: ...

    return asyncio.run(BeamSearch(plan, TASKS, evaluate, propose, tell).run(Candidate("seed", "the seed")))


@pytest.mark.parametrize("make_tasks", [coins, easy_and_hard])
def test_where_all_prompts_are_alike_at_most_one_run_in_twenty_claims_an_improvement(make_tasks):
    verdicts = [simulate(number, make_tasks, better=False) for number in range(RUNS)]

    claimed = sum(verdict.is_improvement for verdict in verdicts)
    print(f"{make_tasks.__name__}: {claimed} of {RUNS} runs over prompts that are all alike claim an improvement")
    assert claimed <= RUNS * 0.05


@pytest.mark.parametrize("make_tasks", [coins, easy_and_hard])
def test_a_better_prompt_is_found_and_shown_in_four_runs_of_five(make_tasks):
    verdicts = [simulate(number, make_tasks, better=True) for number in range(RUNS)]

    found = sum(verdict.best.prompt == WINNER for verdict in verdicts)
    shown = sum(verdict.is_improvement and verdict.best.prompt == WINNER for verdict in verdicts)
    print(f"{make_tasks.__name__}: in {found} of {RUNS} runs the better prompt is found, in {shown} shown to be better")
    assert shown >= RUNS * 0.8
