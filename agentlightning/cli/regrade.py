"""`agl regrade`: rewards computed anew from what is on record."""

from __future__ import annotations

import asyncio
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from .store_options import store_at, store_options

if TYPE_CHECKING:
    from ..replay import Regraded


@click.command()
@click.option("--grader", required=True, metavar="FILE.py:FUNCTION", help="Called with the task and the output.")
@store_options
@click.argument("rollout_ids", nargs=-1)
def command(grader: str, store_url: str | None, db: str, rollout_ids: tuple[str, ...]) -> None:
    """Show the rewards that another grader gives to stored rollouts, beside those they had.

    Without ROLLOUT_IDS, all that succeeded. Nothing is changed in the store, and no model is asked.
    """
    from ..errors import AgentLightningError
    from .train import load

    try:
        regraded = asyncio.run(_regrade(load(grader), rollout_ids, store_url, db))
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
    for each in regraded:
        click.echo(f"{each.rollout_id} {_shown(each.was)} -> {_shown(each.now)}")
    click.echo(_summary(regraded))


async def _regrade(grader: Any, rollout_ids: tuple[str, ...], url: str | None, db: str) -> list[Regraded]:
    from ..replay import regrade

    store = store_at(url, db)
    try:
        return await regrade(store, grader, rollout_ids)
    finally:
        await store.close()


def _summary(regraded: list[Regraded]) -> str:
    if not regraded:
        return "There is nothing to grade."
    was = [each.was for each in regraded if each.was is not None]
    before = _shown(fmean(was) if was else None)
    return f"{len(regraded)} rollouts, mean {before} -> {_shown(fmean(each.now for each in regraded))}"


def _shown(reward: float | None) -> str:
    return "none" if reward is None else format(reward, "g")
