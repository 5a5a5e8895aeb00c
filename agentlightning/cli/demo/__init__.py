"""`agl demo`: compare five prompts on this machine and find the best one, in under a minute."""

from __future__ import annotations

import signal

import click

from ..options import errors_as_messages

MAX_WORDS = 24
"""Number of words in `task.TASKS`, which is not imported here because its imports would slow down `agl --help`."""


@click.command()
@click.option("--folder", help="Folder for the database and the logs.  [default: a new temporary folder]")
@click.option(
    "--base-url", metavar="URL", help="Base URL of an OpenAI-compatible API to use instead of the local model."
)
@click.option(
    "--words", default=MAX_WORDS, show_default=True, type=click.IntRange(1, MAX_WORDS), help="Number of words to sort."
)
def demo(folder: str | None, base_url: str | None, words: int) -> None:
    """Find the best of five prompts for sorting words, with a small local model.

    Starts a store, a runner and the model. Does not need an API key or network access. Press Ctrl-C to stop the demo
    and all its processes.
    """
    with errors_as_messages():
        try:
            from .run import run_demo

            run_demo(folder, base_url, words)
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
