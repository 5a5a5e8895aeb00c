"""`agl replay`: an agent run again on what is on record, with no model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from .store_options import store_at, store_options

if TYPE_CHECKING:
    from ..replay import Replayed


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--agent", metavar="FILE.py:AGENT", help="The agent; or give a COMMAND, as to agl run.")
@store_options
@click.argument("rollout_id")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def command(agent: str | None, store_url: str | None, db: str, rollout_id: str, program: tuple[str, ...]) -> None:
    """Run an agent again on the task of ROLLOUT_ID, with the recorded answers in place of every model.

    Says which call is the first that differs, and ends with 1 where anything does. It costs nothing.
    """
    from ..errors import AgentLightningError
    from ..logs import setup_logging
    from .train import load

    setup_logging("warning")
    if bool(agent) == bool(program):
        raise click.UsageError("say which agent: --agent FILE.py:AGENT, or a command after --")
    try:
        found = load(agent) if agent else _program(program)
        replayed = asyncio.run(_replay(found, rollout_id, store_url, db))
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(told(replayed))
    if not replayed.same:
        raise SystemExit(1)


def told(replayed: Replayed) -> str:
    """What came of it, in words."""
    lines = [f"{replayed.played} of {replayed.calls} calls as recorded."]
    if replayed.difference:
        lines.append(f"The first difference: {replayed.difference}")
    lines.append(
        f"Status {replayed.status} (was {replayed.was_status}), reward {replayed.reward} (was {replayed.was_reward})."
    )
    return "\n".join(lines)


def _program(program: tuple[str, ...]) -> Any:
    from ..litagent import CommandAgent
    from .run import always

    return CommandAgent(always(program))


async def _replay(agent: Any, rollout_id: str, url: str | None, db: str) -> Replayed:
    from ..replay import replay

    store = store_at(url, db)
    try:
        return await replay(store, rollout_id, agent)
    finally:
        await store.close()
