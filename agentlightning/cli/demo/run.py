"""Run the demo: start the local model, run the algorithm with a Trainer, and print the results."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import fmean
from textwrap import indent

import click
from rich.console import Console
from rich.table import Table

from ...errors import MissingExtra
from ...execution import ClientServerExecutionStrategy
from ...local_model import MODEL_NAME, LocalModel, serve_local_model, usable_cores
from ...private_files import FOLDER_MODE, create_private_file
from ...trainer import Trainer
from ...trainer.result import RunResult
from ...types import LLM
from .task import PROMPTS, TASKS, compare_prompts, sort_word


def run_demo(folder: str | None, base_url: str | None, words: int) -> None:
    """Run the demo with the first `words` tasks.

    The files are saved to `folder`, or to a new temporary folder if `folder` is None. The agent calls the model at
    `base_url`. If `base_url` is None, a local model is started.
    """
    if find_spec("openai") is None:
        raise MissingExtra("openai", wanted_for="the demo's agent")
    path = Path(folder or tempfile.mkdtemp(prefix="agl-demo-")).absolute()
    path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    click.echo(f"Which of {len(PROMPTS)} prompts sorts {words} words best into animals and fruit?")
    model = f"the model at {base_url}" if base_url else f"a local model, {MODEL_NAME}"
    click.echo(f"Starting a store and a runner, with {model}.")
    with ExitStack() as stack:
        if base_url is None:
            create_private_file(path / "model.log")
            log = stack.enter_context((path / "model.log").open("a", encoding="utf-8"))
            base_url = stack.enter_context(serve_local_model(LocalModel(context=512), log=log))
        result = _train(path, base_url, TASKS[:words])
    _show_results(result, path)


def _train(folder: Path, base_url: str, tasks: list[dict[str, str]]) -> RunResult:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    click.echo(f"Dashboard while the demo runs: http://127.0.0.1:{port}/")
    trainer = Trainer(
        algorithm=compare_prompts,
        strategy=ClientServerExecutionStrategy("both", "127.0.0.1", port, managed_store=True),
        max_concurrency=4,
        initial_resources={"llm": LLM(endpoint=base_url, model="local")},
        run_dir=folder,
    )
    return trainer.fit(sort_word, tasks, resume=True)


def _show_results(result: RunResult, folder: Path) -> None:
    """Print a table of the results, the best prompt, and suggestions for the next steps."""
    means = {name: fmean(rewards) for name, rewards in result.returned.items()}
    best = max(means, key=lambda name: means[name])
    table = Table("Prompt", "Mean reward", "Correct", "Words", title="\nResults", title_justify="left")
    for name, rewards in result.returned.items():
        style = "bold green" if name == best else None
        table.add_row(name, f"{means[name]:.2f}", str(rewards.count(1.0)), str(len(rewards)), style=style)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    click.echo(f"Best prompt: {best}, mean reward {means[best]:.2f}")
    console.print(indent(PROMPTS[best], "    "), style="cyan", markup=False)
    click.echo(f"Total time: {result.seconds:.0f} s on {usable_cores()} cores.\n")
    click.echo(_NEXT_STEPS.format(folder=folder, agl=_agl_command()))


_NEXT_STEPS = """\
Next steps:
  {agl} dashboard --db {folder}/agl.db
      shows every rollout in the browser, with prompts, answers and rewards
  {agl} store --db {folder}/agl.db
      serves the same database to your own algorithms and runners
  {folder}/log.txt
      contains the model's answer for each word
  examples/first_algorithm/
      does the same in a hundred lines, with store, runner and algorithm in three terminals"""


def _agl_command() -> str:
    """Return the command that starts `agl`: `agl` if it is on the PATH, otherwise the relative path of its file."""
    return "agl" if which("agl") else os.path.relpath(Path(sys.executable).with_name("agl"))
