"""`agl train`: an agent and tasks from a file, without a script around them."""

from __future__ import annotations

from typing import Any

import click


@click.command()
@click.argument("agent", metavar="FILE.py:AGENT")
@click.option("--algorithm", default="baseline", show_default=True, help="NAME in the file, an import path, or apo.")
@click.option("--tasks", default="TASKS", show_default=True, help="NAME of the training tasks in the file.")
@click.option("--val-tasks", help="NAME of the validation tasks in the file.")
@click.option("--prompt", help="The prompt template to begin with; default: PROMPT in the file, if there is one.")
@click.option("--n-runners", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--max-concurrency", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--strategy", type=click.Choice(["cs", "shm"]), default="cs", show_default=True)
@click.option(
    "--role",
    type=click.Choice(["both", "algorithm", "runner"]),
    help="Play one side only, the other being on other machines; default: AGL_CURRENT_ROLE, or both.",
)
@click.option("--host", help="With --role: where the algorithm's machine is; there, the address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Where the store is served; apart, 4747.")
@click.option("--run-dir", help="Default: a new folder in runs/.")
@click.option("--resume", is_flag=True, help="Go on with what was begun in the run's folder.")
def command(
    agent: str,
    algorithm: str,
    tasks: str,
    val_tasks: str | None,
    prompt: str | None,
    n_runners: int,
    max_concurrency: int,
    strategy: str,
    role: Any,
    host: str | None,
    port: int | None,
    run_dir: str | None,
    resume: bool,
) -> None:
    """Run an algorithm on the agent in FILE.py; by default, run every task once and say what came of it.

    The file is imported, so what it does stands in functions or below `if __name__ == "__main__"`.
    """
    from ..errors import AgentLightningError, RunnerDied
    from ..execution import ClientServerExecutionStrategy
    from ..trainer import Trainer

    module, name = _module(agent)
    start = prompt or getattr(module, "PROMPT", None)
    try:
        trainer = Trainer(
            algorithm=_algorithm(module, algorithm),
            n_runners=n_runners,
            max_concurrency=max_concurrency,
            strategy=strategy if strategy == "shm" else ClientServerExecutionStrategy(role, host, port),
            run_dir=run_dir,
            initial_resources={"prompt_template": start} if start else None,
        )
    except (AgentLightningError, ImportError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    train, val = _named(module, tasks), _named(module, val_tasks) if val_tasks else None
    try:
        trainer.fit(_named(module, name), train, val_dataset=val, resume=resume)
    except (FileExistsError, RunnerDied) as error:
        raise click.ClickException(str(error)) from error


def load(where: str) -> Any:
    """What FILE.py:NAME is."""
    module, name = _module(where)
    return _named(module, name)


def _module(agent: str) -> tuple[Any, str]:
    import importlib
    import sys
    from pathlib import Path

    file, _, name = agent.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise click.ClickException(f"{agent!r} is not FILE.py:AGENT with a file that is there")
    # By its name and on the path, so that fresh processes can import it too.
    sys.path.insert(0, str(path.parent.absolute()))
    return importlib.import_module(path.stem), name


def _named(module: Any, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise click.ClickException(f"{module.__file__} has no {name}") from None


def _algorithm(module: Any, name: str) -> Any:
    if name != "apo":
        return getattr(module, name, name)
    from ..algorithm import APO
    from ..errors import MissingExtra

    try:
        from openai import AsyncOpenAI, OpenAIError
    except ImportError:
        raise MissingExtra("openai", wanted_for="--algorithm apo") from None
    try:
        return APO(AsyncOpenAI())
    except OpenAIError as error:
        raise click.ClickException(f"APO needs models to write prompts with. {error}") from None
