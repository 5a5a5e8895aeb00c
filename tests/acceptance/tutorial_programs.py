"""The three programs of the tutorial, with an address, a database and a model for each test."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from agentlightning.store import LightningStoreClient
from tests.processes import TIMEOUT, Program, free_port
from tests.scripted_model import Call

SKY = "The sky appears blue due to Rayleigh scattering"
TUTORIAL = Path(__file__).with_name("tutorial.py")
EXAMPLE = Path(__file__).parents[2] / "examples" / "first_algorithm" / "first_algorithm.py"


class TutorialPrograms:
    """Starts store, runners and algorithms; kills those that still run at its exit."""

    def __init__(self, folder: Path, base_url: str) -> None:
        port = free_port()
        self.url = f"http://localhost:{port}"
        self.folder = folder
        self._port = str(port)
        self._environment = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "sk-test"}
        self._script = folder / "apo_custom_algorithm.py"
        self._script.write_text(TUTORIAL.read_text().replace("http://localhost:4747", self.url))
        self._running = ExitStack()

    def __enter__(self) -> TutorialPrograms:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def store(self) -> Program:
        """Start `agl store`; the database is always the same."""
        return self._start("agentlightning.cli", "store", "--port", self._port, "--db", str(self.folder / "agl.db"))

    def runner(self) -> Program:
        return self._start(self._script, "runner")

    def algo(self) -> Program:
        return self._start(self._script, "algo")

    def example(self, role: str) -> Program:
        """Start a role of `examples/first_algorithm`."""
        return self._start(EXAMPLE, role)

    def client(self) -> LightningStoreClient:
        return LightningStoreClient(self.url)

    def hide_agentops(self) -> None:
        """Make AgentOps appear as not installed to the programs started from now on."""
        folder = self.folder / "hiding"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text('import sys\nsys.modules["agentops"] = None\n')
        self._environment["PYTHONPATH"] = str(folder)

    def _start(self, program: str | Path, *arguments: str) -> Program:
        environment = {**self._environment, "AGL_STORE_URL": self.url}
        return self._running.enter_context(Program(program, *arguments, environment=environment, cwd=self.folder))


class BlockedAnswer:
    """A rule for a model that blocks one of its answers until `release` is set."""

    def __init__(self, number: int) -> None:
        self.called = threading.Event()
        self.release = threading.Event()
        self._number = number

    def __call__(self, call: Call) -> str:
        if call.number == self._number:
            self.called.set()
            self.release.wait(4 * TIMEOUT)
        return f"{SKY}, for once and all."
