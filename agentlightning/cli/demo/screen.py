"""What a demo shows: progress while it works, then a table, the winner, and where to look next."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from textwrap import indent

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...local_model import usable_cores
from .search import Ended, Tried


class Screen:
    """The terminal, or a file of plain lines."""

    def __init__(self, folder: Path, *, model: str, prompts: int, tasks: int) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = _bar(self._console, total=prompts * tasks)
        self._folder = folder
        self._model = model
        self._started = self._since = time.monotonic()
        self._say(f"Which of {prompts} prompts sorts {tasks} words best into animals and fruit?")

    @contextmanager
    def until_stopped(self) -> Generator[None]:
        """While parts are running, which take a moment to stop."""
        try:
            yield
        except KeyboardInterrupt:
            self._say("Stopping …")
            raise

    @contextmanager
    def starting(self) -> Generator[None]:
        """While the parts start."""
        self._say(f"Starting a store and a runner, with {self._model}. Database and logs: {self._folder}")
        yield
        self._since = time.monotonic()
        self._say(f"Ready after {self._since - self._started:.1f} s.")

    def may_be_watched(self, url: str) -> None:
        """The dashboard is up."""
        self._say(f"Watch it in a browser, while it lasts: {url}/")

    @contextmanager
    def trying(self) -> Generator[None]:
        """While the prompts are tried; on a terminal, with a bar."""
        with self._bar:
            yield

    def rollout_ended(self, prompt: str, ended: Ended) -> None:
        """One more is done."""
        self._bar.update(self._bar.task_ids[0], advance=1, description=prompt)

    def prompt_tried(self, tried: Tried) -> None:
        """All rollouts of one prompt are done."""
        now = time.monotonic()
        self._say(
            f"  {tried.name:<28} mean reward {tried.mean:.2f}  {len(tried.rollouts)} words, {now - self._since:.1f} s"
        )
        self._since = now

    def show_results(self, tried: Sequence[Tried]) -> None:
        """Who won, and what to do next."""
        best = max(tried, key=lambda prompt: prompt.mean)
        self._console.print(_table(tried, best))
        for problem in _problems(tried):
            self._console.print(problem, style="red", markup=False)
        self._say(f"Best prompt: {best.name}, mean reward {best.mean:.2f}")
        self._console.print(indent(best.prompt, "    "), style="cyan", markup=False)
        self._say(f"It took {time.monotonic() - self._started:.0f} s on {usable_cores()} cores.\n")
        self._say(_NEXT.format(folder=self._folder, agl=_agl()))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)


_NEXT = """\
Where to look next:
  {agl} dashboard --db {folder}/agl.db
      every rollout in the browser, with what was asked, answered and rewarded
  {agl} store --db {folder}/agl.db
      serves the same to your own algorithms and runners
  {folder}/runner.log
      what the model said to each word
  examples/first_algorithm/
      the same in a hundred lines, with store, runner and algorithm in three terminals"""


def _agl() -> str:
    """How to call `agl` from here: an environment that is not activated has it, but not on the PATH."""
    return "agl" if which("agl") else os.path.relpath(Path(sys.executable).with_name("agl"))


def _bar(console: Console, *, total: int) -> Progress:
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task("waiting for the first answer", total=total)
    return bar


def _table(tried: Sequence[Tried], best: Tried) -> Table:
    table = Table("Prompt", "Mean reward", "Right", "Words", title="\nResults", title_justify="left")
    for prompt in tried:
        right = sum(rollout.reward == 1.0 for rollout in prompt.rollouts)
        style = "bold green" if prompt is best else None
        table.add_row(prompt.name, f"{prompt.mean:.2f}", str(right), str(len(prompt.rollouts)), style=style)
    return table


def _problems(tried: Sequence[Tried]) -> list[str]:
    problems = [problem for prompt in tried for problem in prompt.problems]
    if not problems:
        return []
    return [f"{len(problems)} rollouts ended without a reward, which counts as 0. The first: {problems[0]}"]
