"""`agl demo`: find the best of five prompts on this machine, in under a minute."""

from __future__ import annotations

import signal

import click


@click.command()
@click.option("--folder", help="Folder for the database and the logs.  [default: a new temporary folder]")
@click.option("--base-url", metavar="URL", help="Use this OpenAI-compatible service instead of the local model.")
def command(folder: str | None, base_url: str | None) -> None:
    """Find the best of five prompts for sorting words, with a store, a runner and a small local model.

    Needs no account and no network. Ctrl-C stops it and all its processes.
    """
    from ...errors import AgentLightningError
    from .run import run_demo

    try:
        run_demo(folder, base_url)
    except AgentLightningError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
