"""`agl demo`: the best of five prompts, found on this machine in under a minute."""

from __future__ import annotations

import signal

import click


@click.command()
@click.option("--folder", help="Where the database and the logs go; by default a new temporary folder.")
@click.option("--base-url", metavar="URL", help="Ask this OpenAI-compatible service instead of the local model.")
def command(folder: str | None, base_url: str | None) -> None:
    """Find out which of five prompts sorts words best, with a store, a runner and a small local model.

    Needs no account and no network. Ctrl-C ends it, and leaves nothing running.
    """
    from ...errors import AgentLightningError
    from .run import run_demo

    try:
        run_demo(folder, base_url)
    except AgentLightningError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
