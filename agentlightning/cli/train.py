"""`agl train`: train an agent defined in a Python file, without writing a script."""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path
from typing import Any

import click

from .options import PORT, POSITIVE


@click.command()
@click.argument("agent", metavar="FILE.py:AGENT")
@click.option(
    "--algorithm", default="baseline", help="Algorithm: baseline, apo, a name in the file, or an import path."
)
@click.option("--tasks", default="TASKS", help="Name of the variable in FILE.py that contains the training tasks.")
@click.option("--val-tasks", help="Name of the variable with the validation tasks.")
@click.option(
    "--prompt", help="Text of the initial prompt template.  [default: the variable PROMPT in the file, if it exists]"
)
@click.option("--n-runners", type=POSITIVE, default=1, help="Number of runners.")
@click.option("--max-concurrency", type=POSITIVE, default=1, help="Number of concurrent rollouts in each runner.")
@click.option(
    "--strategy",
    type=click.Choice(["cs", "shm"]),
    default="cs",
    help="Run the runners in processes (cs) or in threads (shm).",
)
@click.option(
    "--role",
    type=click.Choice(["both", "algorithm", "runner"]),
    help="Role of this machine in a run on several machines.  [default: AGL_CURRENT_ROLE, or both]",
)
@click.option(
    "--host", help="With --role algorithm: address to listen on. With --role runner: name of the algorithm's machine."
)
@click.option("--port", type=PORT, help="Port of the store.  [default: 4747 if --role is given]")
@click.option("--run-dir", help="Folder for the results of the run.  [default: a new folder in runs/]")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir.")
def train(
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
    """Run an algorithm on AGENT in FILE.py. By default, run every task once and report the results.

    The command imports the file. If the file is also a script, put the code that runs it as a script below
    `if __name__ == "__main__"`.
    """
    from ..errors import AgentLightningError
    from ..execution import ClientServerExecutionStrategy
    from ..trainer import Trainer

    module, name = _import(agent)
    template = prompt or getattr(module, "PROMPT", None)
    try:
        trainer = Trainer(
            algorithm=_find_algorithm(module, algorithm),
            n_runners=n_runners,
            max_concurrency=max_concurrency,
            strategy=strategy if strategy == "shm" else ClientServerExecutionStrategy(role, host, port),
            run_dir=run_dir,
            initial_resources={"prompt_template": template} if template else None,
        )
    except (AgentLightningError, ImportError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    train, val = _find(module, tasks), _find(module, val_tasks) if val_tasks else None
    try:
        trainer.fit(_find(module, name), train, val_dataset=val, resume=resume)
    except (AgentLightningError, FileExistsError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise click.ClickException(f"{error}; use --run-dir to choose a writable folder") from error


def load(reference: str) -> Any:
    """Import the file in `reference`, which has the form FILE.py:NAME, and return the object NAME from it."""
    module, name = _import(reference)
    return _find(module, name)


def _import(reference: str) -> tuple[Any, str]:
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise click.ClickException(f"{reference!r} must have the form FILE.py:NAME and name an existing file")
    # Add the folder to sys.path and import the module by name, so that child processes can import it too.
    sys.path.insert(0, str(path.parent.absolute()))
    return importlib.import_module(path.stem), name


def _find(module: Any, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise click.ClickException(f"{module.__file__} does not define {name}") from None


def _find_algorithm(module: Any, name: str) -> Any:
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
        raise click.ClickException(f"APO needs access to models that write prompts: {error}") from None
