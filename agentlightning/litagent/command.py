"""Agents that are programs in any language. The program is started once for each attempt.

Environment variables give the program its task (AGL_TASK, AGL_TASK_FILE), the address of the model server
(OPENAI_BASE_URL, ANTHROPIC_BASE_URL) and the OTLP endpoint for spans (OpenTelemetry's standard variables). If a grader
is given, it computes the reward. Otherwise, the reward is the last value that the program passed to `agl reward`. If
the program did not call `agl reward`, the reward is the last non-empty line of its output, provided that this line is a
JSON number or a JSON object with a `reward` field.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast
from urllib.parse import quote

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import semconv
from ..errors import AgentError
from ..processes import kill_group, watchdog_command
from ..tracer import get_active_tracer
from ..tracer.scope import current_scope
from ..types import LLM, AttemptedRollout, NamedResources, ProxyLLM, RolloutMode
from .function import FunctionAgent

P = ParamSpec("P")
R = TypeVar("R", bound="Command")
Command = str | Sequence[str]
Grader = Callable[[Any, str], Any]
"""Function that takes the task and the program's output, and returns the reward or an awaitable for it."""

EXIT_CODE: Final = "process.exit.code"
COMMAND_ARGS: Final = "process.command_args"
STDERR: Final = "process.stderr"
MAX_OUTPUT: Final = 256 * 1024
"""Maximum number of bytes that are read from the end of each output stream (stdout and stderr) of a program."""
MAX_TASK_VARIABLE: Final = 100_000
"""Tasks of at least this size, in bytes, are not passed in AGL_TASK, because Linux limits variables to 128 KiB."""
TERMINATION_GRACE_SECONDS: Final = 1.0
"""Maximum time in seconds between SIGTERM and SIGKILL when a program is cancelled or times out."""
INHERITED: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "NODE_PATH",
    "PATH",
    "PYTHONPATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
)
"""Environment variables that every program inherits from the runner."""


class CommandAgent(FunctionAgent[P, R]):
    """An agent whose function returns the command to run for a task."""

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
        self._environment: Mapping[str, str] | tuple[str, ...] = (
            cast("Mapping[str, str]", environment) if isinstance(environment, Mapping) else tuple(environment)
        )
        self._timeout = timeout
        self._recreate = functools.partial(CommandAgent, grader=grader, environment=self._environment, timeout=timeout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[Any, NamedResources, AttemptedRollout], Any]:
        """Return `rollout_async`, which handles every mode."""
        return self.rollout_async

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Run the program until it exits and return the reward."""
        command = self.rollout(task, resources, rollout)
        if inspect.isawaitable(command):
            command = await command
        with tempfile.TemporaryDirectory(prefix="agl-") as folder:
            files = AttemptFiles(Path(folder))
            files.write(task, resources)
            async with asyncio.timeout(self._timeout):
                # The environment contains the id of the program's span, so it must be built while that span is active.
                await _run_traced(
                    _arguments(command),
                    files,
                    lambda: environment_for(rollout, resources, self._environment) | files.environment(),
                )
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
    """Use a program as an agent: the decorated function returns the command to run for a task.

    The command is a list of arguments or a shell command string. The program inherits only a few common environment
    variables from the runner, such as PATH. `environment` lists other variables to inherit, or maps the names of
    additional variables to their values. If the program is still running after `timeout` seconds, it is killed together
    with its child processes. `grader` is called with the task and the program's output, and returns the reward.
    """
    if function is None:
        return functools.partial(command_agent, grader=grader, environment=environment, timeout=timeout)
    return CommandAgent(function, grader=grader, environment=environment, timeout=timeout)


def environment_for(
    rollout: AttemptedRollout, resources: NamedResources, additional: Iterable[str] | Mapping[str, str] = ()
) -> dict[str, str]:
    """Return all environment variables for a program that runs this attempt.

    `additional` lists other variables to inherit, or maps the names of additional variables to their values.
    """
    trace = _trace_variables()
    return {
        **_inherit(INHERITED),
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}",
        **_model_variables(rollout, resources, trace.get("TRACEPARENT")),
        **trace,
        **_store_variables(rollout),
        "AGL_ROLLOUT_ID": rollout.rollout_id,
        "AGL_ATTEMPT_ID": rollout.attempt.attempt_id,
        **(additional if isinstance(additional, Mapping) else _inherit(additional)),
    }


def _inherit(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _model_variables(rollout: AttemptedRollout, resources: NamedResources, traceparent: str | None) -> dict[str, str]:
    """Return the variables for the first `LLM` among the resources, or an empty dict if there is none.

    If the model is behind the LLM proxy, the model's URL identifies the attempt and the program's span, because few
    programs send a traceparent header.
    """
    llm = next((resource for resource in resources.values() if isinstance(resource, LLM)), None)
    if llm is None:
        return {}
    if isinstance(llm, ProxyLLM):
        llm = llm.with_attempted_rollout(rollout, traceparent)
    key = llm.api_key or "none"  # the SDKs require a key
    return {
        "OPENAI_BASE_URL": llm.endpoint,
        "OPENAI_API_KEY": key,
        # Anthropic's SDKs append /v1 themselves.
        "ANTHROPIC_BASE_URL": llm.endpoint.rstrip("/").removesuffix("/v1"),
        "ANTHROPIC_API_KEY": key,
        "AGL_MODEL": llm.model,
    }


def _trace_variables() -> dict[str, str]:
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    W3CBaggagePropagator().inject(headers)
    return {name.upper(): value for name, value in headers.items()}


def _store_variables(rollout: AttemptedRollout) -> dict[str, str]:
    """Return the variables for reaching the store, or an empty dict if the store is not served over HTTP."""
    scope = current_scope()
    store: Any = scope.store if scope else None
    traces_url = store.otlp_traces_endpoint() if store else None
    if traces_url is None:
        return {}
    url = traces_url.removesuffix("/v1/traces")
    ids = {semconv.ROLLOUT_ID: rollout.rollout_id, semconv.ATTEMPT_ID: rollout.attempt.attempt_id}
    variables = {
        "AGL_STORE_URL": url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={quote(value, safe='')}" for name, value in ids.items()),
    }
    make_token = getattr(store, "attempt_token", None)
    token = make_token(rollout.rollout_id, rollout.attempt.attempt_id) if make_token else None
    if token is None:
        return variables
    return variables | {"AGL_TOKEN": token, "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}"}


@dataclass(frozen=True)
class AttemptFiles:
    """Files through which the runner and the program exchange data during one attempt."""

    folder: Path

    def write(self, task: Any, resources: NamedResources) -> None:
        """Write the task and the resources to files.

        A task that is a string is written unchanged, any other task as JSON. API keys are removed from the resources.
        """
        self._path("task").write_text(task if isinstance(task, str) else json.dumps(task))
        public_fields = {
            name: resource.model_dump(mode="json", exclude={"api_key"}) for name, resource in resources.items()
        }
        self._path("resources.json").write_text(json.dumps(public_fields))

    def environment(self) -> dict[str, str]:
        """Return environment variables with the paths of the files, and the task itself if it fits in a variable."""
        variables = {
            "AGL_TASK_FILE": str(self._path("task")),
            "AGL_RESOURCES_FILE": str(self._path("resources.json")),
            "AGL_REWARD_FILE": str(self._path("reward")),
        }
        task = self._path("task").read_text()
        if len(task.encode()) < MAX_TASK_VARIABLE and "\0" not in task:
            variables["AGL_TASK"] = task
        return variables

    def streams(self) -> tuple[Path, Path]:
        """Return the paths of the files that capture stdout and stderr."""
        return self._path("stdout"), self._path("stderr")

    def output(self) -> str:
        """Return the last `MAX_OUTPUT` bytes of stdout as text."""
        return _tail(self._path("stdout"))

    def errors(self) -> str:
        """Return the last `MAX_OUTPUT` bytes of stderr as text."""
        return _tail(self._path("stderr"))

    def reward(self) -> float | None:
        """Return the reward from `agl reward` or from the last line of the output, or None if neither contains one."""
        with suppress(FileNotFoundError):
            return _number(json.loads(self._path("reward").read_text()))
        last_line = next((line for line in reversed(self.output().splitlines()) if line.strip()), "")
        try:
            value: Any = json.loads(last_line)
        except ValueError:
            return None
        return _number(cast("dict[str, Any]", value).get("reward") if isinstance(value, dict) else value)

    def last_lines(self) -> str:
        """Return the last three lines of stderr, or of stdout if stderr is empty."""
        lines = (self.errors().strip() or self.output().strip()).splitlines()
        return " / ".join(lines[-3:]) or "(no output)"

    def _path(self, name: str) -> Path:
        return self.folder / name


async def _run_traced(arguments: list[str], files: AttemptFiles, environment: Callable[[], Mapping[str, str]]) -> None:
    """Run the program and, if a tracer is active, record the program's output in a span.

    Raises `AgentError` if the program cannot be started or exits with a nonzero code.
    """
    tracer = get_active_tracer()
    if tracer is None:
        code = await _run(arguments, files, environment())
    else:
        attributes = {semconv.OPERATION_NAME: Path(arguments[0]).name, COMMAND_ARGS: arguments}
        with tracer.operation_context(semconv.OPERATION, attributes) as span:
            code = None
            try:
                code = await _run(arguments, files, environment())
            finally:
                results = {semconv.OPERATION_OUTPUT: files.output(), STDERR: files.errors(), EXIT_CODE: code}
                span.set_attributes({name: value for name, value in results.items() if value not in (None, "")})
    if code:
        raise AgentError(f"{arguments[0]} exited with code {code}: {files.last_lines()}")


async def _run(arguments: list[str], files: AttemptFiles, environment: Mapping[str, str]) -> int:
    if shutil.which(arguments[0], path=environment.get("PATH")) is None:
        raise AgentError(f"cannot start {arguments[0]}: no such program on the PATH")
    # Use files instead of pipes, because a background process that the program leaves running could keep a pipe open.
    stdout, stderr = files.streams()
    with stdout.open("wb") as out, stderr.open("wb") as err, _watchdog_pipe() as stdin:
        process = await asyncio.create_subprocess_exec(
            *watchdog_command(arguments), stdin=stdin, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _terminate(process)
            raise
        finally:
            kill_group(process.pid)


@contextmanager
def _watchdog_pipe() -> Generator[int]:
    """Open a pipe and yield its read end, which becomes the watchdog's standard input.

    The write end is closed when the block or this process ends. The watchdog then reads end-of-file and kills the
    program.
    """
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


async def _terminate(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), TERMINATION_GRACE_SECONDS)
    kill_group(process.pid)
    await process.wait()


def _arguments(command: Any) -> list[str]:
    if isinstance(command, str):
        return ["/bin/sh", "-c", command]
    if not isinstance(command, Sequence) or not command:
        raise AgentError(f"the function of a command agent must return a command, not {command!r}")
    return [str(part) for part in cast("Sequence[Any]", command)]


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_OUTPUT))
        return file.read().decode(errors="replace").replace("\0", "�")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
