"""Agents that are programs: started for each rollout, told everything in their environment, heard through their output.

A program in any language finds its task in AGL_TASK and AGL_TASK_FILE, the model in OPENAI_BASE_URL and
ANTHROPIC_BASE_URL, and OpenTelemetry's own variables say where its spans go. Its reward is what `agl reward` was told
inside it, else the last line of its output where that is JSON: a number, or an object with a `reward`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

from .. import semconv
from ..errors import AgentError
from ..processes import guarded
from ..tracer import get_active_tracer
from ..types import AttemptedRollout, NamedResources, RolloutMode
from .environment import environment_for
from .function import FunctionAgent

P = ParamSpec("P")
R = TypeVar("R", bound="Command")
Command = str | Sequence[str]
Grader = Callable[[Any, str], Any]
"""Takes the task and what the program printed, and gives the reward."""

EXIT_CODE: Final = "process.exit.code"
COMMAND_ARGS: Final = "process.command_args"
STDERR: Final = "process.stderr"
MAX_OUTPUT: Final = 256 * 1024
"""Bytes of each output stream that are kept: its end."""
TERM_SECONDS: Final = 1.0
"""Between SIGTERM and SIGKILL, for a program that has to stop."""


class CommandAgent(FunctionAgent[P, R]):
    """A program that is an agent; its function says, for a task, which one to start."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        grader: Grader | None = None,
        environment: Iterable[str] | Mapping[str, str] = (),
        timeout: float | None = None,
    ) -> None:
        super().__init__(function)
        self._grader = grader
        self._more: Mapping[str, str] | tuple[str, ...] = (
            cast("Mapping[str, str]", environment) if isinstance(environment, Mapping) else tuple(environment)
        )
        self._timeout = timeout
        self._how_made = functools.partial(CommandAgent, grader=grader, environment=self._more, timeout=timeout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[Any, NamedResources, AttemptedRollout], Any]:
        """The same for every mode."""
        return self.rollout_async

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Start the program, wait for its end, and find its reward."""
        command = self.rollout(task, resources, rollout)
        if inspect.isawaitable(command):
            command = await command
        with tempfile.TemporaryDirectory(prefix="agl-") as folder:
            files = Files(Path(folder))
            files.write(task, resources)
            async with asyncio.timeout(self._timeout):
                await _traced(_arguments(command), files, lambda: self._environment(files, resources, rollout))
            return await self._reward(task, files)

    def _environment(self, files: Files, resources: NamedResources, rollout: AttemptedRollout) -> dict[str, str]:
        return environment_for(rollout, resources, self._more) | files.environment()

    async def _reward(self, task: Any, files: Files) -> Any:
        if self._grader is None:
            return files.reward()
        reward = self._grader(task, files.output())
        return await reward if inspect.isawaitable(reward) else reward


def command_agent(
    function: Callable[P, R] | None = None,
    /,
    *,
    grader: Grader | None = None,
    environment: Iterable[str] | Mapping[str, str] = (),
    timeout: float | None = None,
) -> Any:
    """Make an agent of a program: the function gives, for a task, the command to run.

    The command is a list of arguments, or a string for the shell. `environment` names variables that the program gets
    besides the few every program needs, or gives their values; no others reach it. After `timeout` seconds the program
    and all it has started are killed. A `grader` is called with the task and the program's output.
    """
    if function is None:
        return functools.partial(command_agent, grader=grader, environment=environment, timeout=timeout)
    return CommandAgent(function, grader=grader, environment=environment, timeout=timeout)


@dataclass(frozen=True)
class Files:
    """What passes between the runner and one run of the program."""

    folder: Path

    def write(self, task: Any, resources: NamedResources) -> None:
        """Put down the task, a string as it is and all else as JSON, and the resources without their keys."""
        self._path("task").write_text(task if isinstance(task, str) else json.dumps(task))
        shown = {name: resource.model_dump(mode="json", exclude={"api_key"}) for name, resource in resources.items()}
        self._path("resources.json").write_text(json.dumps(shown))

    def environment(self) -> dict[str, str]:
        """Where it all is; the task itself too, where the system takes one so large."""
        where = {
            "AGL_TASK_FILE": str(self._path("task")),
            "AGL_RESOURCES_FILE": str(self._path("resources.json")),
            "AGL_REWARD_FILE": str(self._path("reward")),
        }
        task = self._path("task").read_text()
        # Linux takes 128 KiB for a variable, and no NUL.
        return where | ({"AGL_TASK": task} if len(task.encode()) < 100_000 and "\0" not in task else {})

    def output(self) -> str:
        return _end_of(self._path("stdout"))

    def errors(self) -> str:
        return _end_of(self._path("stderr"))

    def reward(self) -> float | None:
        """What the program said it was worth."""
        with suppress(FileNotFoundError):
            return _number(json.loads(self._path("reward").read_text()))
        return _reward_in(self.output())

    def streams(self) -> tuple[Path, Path]:
        return self._path("stdout"), self._path("stderr")

    def _path(self, name: str) -> Path:
        return self.folder / name


async def _traced(arguments: list[str], files: Files, environment: Callable[[], Mapping[str, str]]) -> None:
    """Run it within a span that holds what it printed. Raises `AgentError` when it fails."""
    tracer = get_active_tracer()
    named = {semconv.OPERATION_NAME: Path(arguments[0]).name, COMMAND_ARGS: arguments}
    if tracer is None:
        code = await _run(arguments, files, environment())
    else:
        with tracer.operation_context(semconv.OPERATION, named) as step:
            code = None
            try:
                code = await _run(arguments, files, environment())
            finally:
                seen = {semconv.OPERATION_OUTPUT: files.output(), STDERR: files.errors(), EXIT_CODE: code}
                step.set_attributes({name: value for name, value in seen.items() if value not in (None, "")})
    if code:
        raise AgentError(f"{arguments[0]} ended with exit code {code}: {_last_words(files)}")


async def _run(arguments: list[str], files: Files, environment: Mapping[str, str]) -> int:
    if shutil.which(arguments[0], path=environment.get("PATH")) is None:
        raise AgentError(f"{arguments[0]} cannot be started: there is no such program")
    # To files, not pipes: what a program leaves behind in the background may hold a pipe open for ever.
    stdout, stderr = files.streams()
    with stdout.open("wb") as out, stderr.open("wb") as err, _lifeline() as stdin:
        process = await asyncio.create_subprocess_exec(
            *guarded(arguments), stdin=stdin, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _ask_to_end(process)
            raise
        finally:
            _signal(process.pid, signal.SIGKILL)


@contextmanager
def _lifeline() -> Generator[int]:
    """The reading end of a pipe that ends with this context, or with this process."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


async def _ask_to_end(process: asyncio.subprocess.Process) -> None:
    _signal(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), TERM_SECONDS)
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _arguments(command: Any) -> list[str]:
    if isinstance(command, str):
        return ["/bin/sh", "-c", command]
    if not isinstance(command, Sequence) or not command:
        raise AgentError(f"a command agent's function returns a command, not {command!r}")
    return [str(part) for part in cast("Sequence[Any]", command)]


def _end_of(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_OUTPUT))
        return file.read().decode(errors="replace").replace("\0", "�")


def _last_words(files: Files) -> str:
    lines = (files.errors().strip() or files.output().strip()).splitlines()
    return " / ".join(lines[-3:]) or "it printed nothing"


def _reward_in(output: str) -> float | None:
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    try:
        said: Any = json.loads(last)
    except ValueError:
        return None
    return _number(cast("dict[str, Any]", said).get("reward") if isinstance(said, dict) else said)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
