"""`agl llm`: a small language model on this machine, for trying things out."""

from __future__ import annotations

import click


@click.command()
@click.option("--model", metavar="FILE.gguf", help="Serve this model instead of SmolLM2-135M-Instruct.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port to listen on; 0 is any free one.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: as many as there are usable cores.")
@click.option("--slots", type=click.IntRange(min=1), default=4, show_default=True, help="Requests answered at once.")
@click.option(
    "--context",
    type=click.IntRange(min=64),
    default=2048,
    show_default=True,
    help="Tokens for a prompt and its answer.",
)
def command(model: str | None, host: str, port: int, threads: int | None, slots: int, context: int) -> None:
    """Serve a small language model, OpenAI-compatible, on this machine.

    Prints the environment variables with which any OpenAI client finds it. Ctrl-C ends it.
    """
    from ..local_model import LocalModel, LocalModelError

    try:
        LocalModel(model, host, port, threads, slots, context).run(_announce)
    except LocalModelError as error:
        raise click.ClickException(str(error)) from None


def _announce(base_url: str) -> None:
    click.echo(f"OPENAI_BASE_URL={base_url} OPENAI_API_KEY=none")
