"""`agl replay` and `agl regrade`: repeat a recorded rollout without a model, and grade stored rollouts again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

import click

from .options import echo, errors_as_messages, format_reward, open_selected_store, store_options

if TYPE_CHECKING:
    from ..replay import RegradeResult, ReplayResult
    from ..store import LightningStore

T = TypeVar("T")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--agent",
    metavar="FILE.py:AGENT",
    help="Python agent to run. For any other agent, pass COMMAND instead, as for agl run.",
)
@store_options
@click.argument("rollout_id")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def replay(agent: str | None, store_url: str | None, db: str, rollout_id: str, program: tuple[str, ...]) -> None:
    """Run an agent again on the task of ROLLOUT_ID, with recorded responses.

    Does not call a model. Prints the first call that differs from the recorded one, if any. Exits with status 1 if a
    call, the rollout's status or its reward differs.
    """
    from ..litagent import CommandAgent
    from ..logs import setup_logging
    from ..replay import replay as replay_rollout
    from .run import fixed_command
    from .train import load

    setup_logging("warning")
    if bool(agent) == bool(program):
        raise click.UsageError("choose one agent: pass --agent FILE.py:AGENT, or a command after --")
    with errors_as_messages():
        chosen = load(agent) if agent else CommandAgent(fixed_command(program))
        result = asyncio.run(_on_store(store_url, db, lambda store: replay_rollout(store, rollout_id, chosen)))
    echo(_format_replay(result), keep_lines=True)
    if not result.is_identical:
        raise SystemExit(1)


@click.command()
@click.option(
    "--grader", required=True, metavar="FILE.py:FUNCTION", help="Function (task, output) that returns the reward."
)
@store_options
@click.argument("rollout_ids", nargs=-1)
def regrade(grader: str, store_url: str | None, db: str, rollout_ids: tuple[str, ...]) -> None:
    """Grade stored rollouts again and print the recorded and the new rewards.

    Without ROLLOUT_IDS, grades all rollouts that succeeded. Does not change the store or call a model.
    """
    from ..replay import regrade as regrade_rollouts
    from .train import load

    with errors_as_messages():
        function = load(grader)
        results = asyncio.run(_on_store(store_url, db, lambda store: regrade_rollouts(store, function, rollout_ids)))
    for result in results:
        echo(f"{result.rollout_id} {format_reward(result.recorded_reward)} -> {format_reward(result.reward)}")
    echo(_summary(results))


async def _on_store(url: str | None, db: str, function: Callable[[LightningStore], Awaitable[T]]) -> T:
    async with open_selected_store(url, db) as store:
        return await function(store)


def _format_replay(result: ReplayResult) -> str:
    lines = [f"{result.matched_calls} of {result.recorded_calls} calls match the recording."]
    if result.difference:
        lines.append(f"First difference: {result.difference}")
    status = f"Status {result.status} (was {result.recorded_status})"
    lines.append(f"{status}, reward {result.reward} (was {result.recorded_reward}).")
    return "\n".join(lines)


def _summary(results: list[RegradeResult]) -> str:
    if not results:
        return "There are no successful rollouts to grade."
    recorded = [result.recorded_reward for result in results if result.recorded_reward is not None]
    before = format_reward(fmean(recorded) if recorded else None)
    return f"{len(results)} rollouts, mean {before} -> {format_reward(fmean(result.reward for result in results))}"
