"""One run of the demo: its processes, its progress on the terminal, and its results."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from textwrap import indent
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...errors import AgentLightningError, MissingExtra
from ...local_model import MODEL_NAME, LocalModel, serve_local_model, usable_cores
from ...processes import child_process
from .task import PROMPTS, TASKS, PromptResult, evaluate_prompts

T = TypeVar("T")


class DemoError(AgentLightningError, RuntimeError):
    """The demo failed."""


def run_demo(folder: str | None, base_url: str | None) -> None:
    """Run the demo with its files in `folder`, by default a new temporary one."""
    _require_libraries(local_model=base_url is None)
    path = Path(folder or tempfile.mkdtemp(prefix="agl-demo-")).absolute()
    path.mkdir(parents=True, exist_ok=True)
    output = DemoOutput()
    model = f"the model at {base_url}" if base_url else f"a local model, {MODEL_NAME}"
    with DemoProcesses(path) as processes:
        try:
            output.say(f"Starting a store and a runner, with {model}. Database and logs: {path}")
            store_url = processes.start_store()
            processes.start_runner(store_url, base_url or processes.start_model())
            output.say(f"Ready after {output.lap():.1f} s.")
            with output.progress_bar:
                results = _run_interruptible(lambda: processes.run_while_alive(_evaluate(store_url, output)))
        except KeyboardInterrupt:
            output.say("Stopping …")
            raise
    output.show_results(results, path)


def _run_interruptible(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run as `asyncio.run` does, but defer a Ctrl-C until the event loop can handle it."""
    if sys.platform == "win32":
        return asyncio.run(work())

    async def begin() -> T:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return await work()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return asyncio.run(begin())


async def _evaluate(store_url: str, output: DemoOutput) -> list[PromptResult]:
    from ...store import LightningStoreClient

    results: list[PromptResult] = []
    async with LightningStoreClient(store_url) as store:
        await store.statistics()  # waits until the store responds
        output.say(f"Dashboard, for as long as the demo runs: {store_url}/")
        async for result in evaluate_prompts(store, PROMPTS, TASKS, output.count_rollout):
            output.show_prompt(result)
            results.append(result)
    return results


class DemoProcesses:
    """The demo's child processes; they end with the block and with this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> DemoProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_store(self) -> str:
        """Start a store with a database in the folder and return its URL."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        self._start("store", "agentlightning.cli", "store", "--port", port, "--db", str(self._folder / "agl.db"))
        return f"http://127.0.0.1:{port}"

    def start_model(self) -> str:
        """Start the local model and return its base URL when it is ready."""
        return self._stack.enter_context(serve_local_model(LocalModel(context=512), log=self._log("model")))

    def start_runner(self, store_url: str, base_url: str) -> None:
        """Start a runner with the demo's agent."""
        environment = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "none")}
        self._start("runner", "agentlightning.cli.demo.task", store_url, environment=environment)

    async def run_while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. Raises DemoError as soon as one of the processes ends."""
        task, ended = asyncio.ensure_future(work), asyncio.get_running_loop().create_future()
        for name, process in self._processes.items():
            threading.Thread(target=_notify_end, args=(name, process, ended), daemon=True).start()
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        raise DemoError(self._log_excerpt(ended.result()))

    def _start(self, name: str, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        log = self._log(name)
        process = child_process(module, *arguments, stdout=log, stderr=subprocess.STDOUT, environment=environment)
        self._processes[name] = self._stack.enter_context(process)

    def _log(self, name: str) -> IO[str]:
        return self._stack.enter_context((self._folder / f"{name}.log").open("a", encoding="utf-8"))

    def _log_excerpt(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        return "\n".join([f"the {name} process ended unexpectedly; the last lines of {log}:", *lines])


def _notify_end(name: str, process: subprocess.Popen[str], ended: asyncio.Future[str]) -> None:
    process.wait()
    with contextlib.suppress(RuntimeError):  # the event loop is closed: the demo is over
        ended.get_loop().call_soon_threadsafe(lambda: ended.done() or ended.set_result(name))


class DemoOutput:
    """Progress and results on the terminal, or as plain lines in a file."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self.progress_bar = _progress_bar(self._console, total=len(PROMPTS) * len(TASKS))
        self._started = self._last_lap = time.monotonic()
        self.say(f"Which of {len(PROMPTS)} prompts sorts {len(TASKS)} words best into animals and fruit?")

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False)

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        seconds, self._last_lap = now - self._last_lap, now
        return seconds

    def count_rollout(self, prompt_name: str) -> None:
        """Advance the progress bar by one rollout."""
        self.progress_bar.update(self.progress_bar.task_ids[0], advance=1, description=prompt_name)

    def show_prompt(self, result: PromptResult) -> None:
        """Print the result of one prompt."""
        words = len(result.outcomes)
        self.say(f"  {result.name:<28} mean reward {result.mean:.2f}  {words} words, {self.lap():.1f} s")

    def show_results(self, results: Sequence[PromptResult], folder: Path) -> None:
        """Print the table of results, the best prompt, and the next steps."""
        best = max(results, key=lambda result: result.mean)
        self._console.print(_table(results, best))
        if problems := [outcome.problem for result in results for outcome in result.outcomes if outcome.problem]:
            text = f"{len(problems)} rollouts ended without a reward, which counts as 0. The first: {problems[0]}"
            self._console.print(text, style="red", markup=False)
        self.say(f"Best prompt: {best.name}, mean reward {best.mean:.2f}")
        self._console.print(indent(best.prompt, "    "), style="cyan", markup=False)
        self.say(f"Total time: {time.monotonic() - self._started:.0f} s on {usable_cores()} cores.\n")
        self.say(_NEXT_STEPS.format(folder=folder, agl=_agl_command()))


_NEXT_STEPS = """\
Next steps:
  {agl} dashboard --db {folder}/agl.db
      shows every rollout in the browser, with prompts, answers and rewards
  {agl} store --db {folder}/agl.db
      serves the same database to your own algorithms and runners
  {folder}/runner.log
      has the model's answer for each word
  examples/first_algorithm/
      does the same in a hundred lines, with store, runner and algorithm in three terminals"""


def _agl_command() -> str:
    """Return the command that starts `agl`: a virtual environment that is not activated has it outside the PATH."""
    return "agl" if which("agl") else os.path.relpath(Path(sys.executable).with_name("agl"))


def _progress_bar(console: Console, *, total: int) -> Progress:
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task("waiting for the first answer", total=total)
    return bar


def _table(results: Sequence[PromptResult], best: PromptResult) -> Table:
    table = Table("Prompt", "Mean reward", "Correct", "Words", title="\nResults", title_justify="left")
    for result in results:
        correct = sum(outcome.reward == 1.0 for outcome in result.outcomes)
        style = "bold green" if result is best else None
        table.add_row(result.name, f"{result.mean:.2f}", str(correct), str(len(result.outcomes)), style=style)
    return table


def _require_libraries(*, local_model: bool) -> None:
    if find_spec("openai") is None:
        raise MissingExtra("openai", wanted_for="the demo's agent")
    if local_model:
        LocalModel().resolved()
