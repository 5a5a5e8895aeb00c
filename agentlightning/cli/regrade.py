"""`agl regrade`: recompute rewards from recorded outputs."""

from __future__ import annotations

import asyncio
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from .options import errors_as_messages, open_selected_store, store_options

if TYPE_CHECKING:
    from ..replay import RegradeResult


@click.command()
@click.option(
    "--grader", required=True, metavar="FILE.py:FUNCTION", help="Function (task, output) that returns the reward."
)
@store_options
@click.argument("rollout_ids", nargs=-1)
def command(grader: str, store_url: str | None, db: str, rollout_ids: tuple[str, ...]) -> None:
    """Grade stored rollouts again and print the recorded and the new rewards.

    Without ROLLOUT_IDS, grades all succeeded rollouts. Does not change the store or call a model.
    """
    from .train import load

    with errors_as_messages():
        results = asyncio.run(_regrade(load(grader), rollout_ids, store_url, db))
    for result in results:
        click.echo(f"{result.rollout_id} {_format(result.recorded_reward)} -> {_format(result.reward)}")
    click.echo(_summary(results))


async def _regrade(grader: Any, rollout_ids: tuple[str, ...], url: str | None, db: str) -> list[RegradeResult]:
    from ..replay import regrade

    store = open_selected_store(url, db)
    try:
        return await regrade(store, grader, rollout_ids)
    finally:
        await store.close()


def _summary(results: list[RegradeResult]) -> str:
    if not results:
        return "No succeeded rollouts to grade."
    recorded = [result.recorded_reward for result in results if result.recorded_reward is not None]
    before = _format(fmean(recorded) if recorded else None)
    return f"{len(results)} rollouts, mean {before} -> {_format(fmean(result.reward for result in results))}"


def _format(reward: float | None) -> str:
    return "none" if reward is None else format(reward, "g")
