"""`agl replay`: run an agent again with recorded responses, without a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from .options import errors_as_messages, open_selected_store, store_options

if TYPE_CHECKING:
    from ..replay import ReplayResult


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--agent", metavar="FILE.py:AGENT", help="The agent. Alternatively, pass a COMMAND as for agl run.")
@store_options
@click.argument("rollout_id")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def command(agent: str | None, store_url: str | None, db: str, rollout_id: str, program: tuple[str, ...]) -> None:
    """Run an agent again on the task of ROLLOUT_ID, with recorded responses.

    Does not call a model. Prints the first call that differs from the recording. Exits with 1 if a call, the status or
    the reward differs.
    """
    from ..litagent import CommandAgent
    from ..logs import setup_logging
    from .run import fixed_command
    from .train import load

    setup_logging("warning")
    if bool(agent) == bool(program):
        raise click.UsageError("choose one agent: pass --agent FILE.py:AGENT, or a command after --")
    with errors_as_messages():
        chosen = load(agent) if agent else CommandAgent(fixed_command(program))
        result = asyncio.run(_replay(chosen, rollout_id, store_url, db))
    click.echo(format_result(result))
    if not result.is_identical:
        raise SystemExit(1)


def format_result(result: ReplayResult) -> str:
    """Format the result of a replay for the terminal."""
    lines = [f"{result.matched_calls} of {result.recorded_calls} calls match the recording."]
    if result.difference:
        lines.append(f"First difference: {result.difference}")
    status = f"Status {result.status} (was {result.recorded_status})"
    lines.append(f"{status}, reward {result.reward} (was {result.recorded_reward}).")
    return "\n".join(lines)


async def _replay(agent: Any, rollout_id: str, url: str | None, db: str) -> ReplayResult:
    from ..replay import replay

    store = open_selected_store(url, db)
    try:
        return await replay(store, rollout_id, agent)
    finally:
        await store.close()
