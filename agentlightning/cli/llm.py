"""`agl llm`: serve a small language model on this machine, for trials and tests."""

from __future__ import annotations

import click

from .options import POSITIVE, echo, errors_as_messages, port_option


@click.command()
@click.option("--model", metavar="FILE.gguf", help="Model file to serve.  [default: SmolLM2-135M-Instruct]")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@port_option(8080)
@click.option("--threads", type=POSITIVE, help="Number of CPU threads.  [default: number of usable cores]")
@click.option("--slots", type=POSITIVE, default=4, help="Maximum number of requests processed concurrently.")
@click.option(
    "--context",
    type=click.IntRange(min=64),
    default=2048,
    help="Maximum total number of tokens in a prompt and its response.",
)
def llm(model: str | None, host: str, port: int, threads: int | None, slots: int, context: int) -> None:
    """Serve a small language model with an OpenAI-compatible API on this machine.

    Prints the environment variables that an OpenAI client needs to connect to the server. Press Ctrl-C to stop.
    """
    from ..local_model import LocalModel

    with errors_as_messages():
        LocalModel(model, host, port, threads, slots, context).run(
            lambda url: echo(f"OPENAI_BASE_URL={url} OPENAI_API_KEY=none")
        )
