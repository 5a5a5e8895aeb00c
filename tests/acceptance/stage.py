"""The tutorial's three terminals, for tests: each test has its own address, database and model."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from agentlightning.store import LightningStoreClient
from tests.processes import Program, free_port
from tests.scripted_model import Call

SKY = "The sky appears blue due to Rayleigh scattering"
TUTORIAL = Path(__file__).with_name("tutorial.py")
EXAMPLE = Path(__file__).parents[2] / "examples" / "first_algorithm" / "first_algorithm.py"


class Stage:
    """Starts store, runners and algorithms; whatever still runs when it is left is killed."""

    def __init__(self, folder: Path, base_url: str) -> None:
        port = free_port()
        self.url = f"http://localhost:{port}"
        self.folder = folder
        self._port = str(port)
        self._environment = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "sk-test"}
        self._script = folder / "apo_custom_algorithm.py"
        self._script.write_text(TUTORIAL.read_text().replace("http://localhost:4747", self.url))
        self._running = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def store(self) -> Program:
        """Terminal 1: `agl store`, over the same database each time."""
        return self._start("agentlightning.cli", "store", "--port", self._port, "--db", str(self.folder / "agl.db"))

    def runner(self) -> Program:
        """Terminal 2."""
        return self._start(self._script, "runner")

    def algo(self) -> Program:
        """Terminal 3."""
        return self._start(self._script, "algo")

    def example(self, role: str) -> Program:
        """The same three parts, of `examples/first_algorithm`."""
        return self._start(EXAMPLE, role)

    def client(self) -> LightningStoreClient:
        """A look at the store from the outside."""
        return LightningStoreClient(self.url)

    def hide_agentops(self) -> None:
        """For the programs started from now on, AgentOps is not installed."""
        folder = self.folder / "hiding"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text('import sys\nsys.modules["agentops"] = None\n')
        self._environment["PYTHONPATH"] = str(folder)

    def _start(self, program: str | Path, *arguments: str) -> Program:
        environment = {**self._environment, "AGL_STORE_URL": self.url}
        return self._running.enter_context(Program(program, *arguments, environment=environment, cwd=self.folder))


class Held:
    """A model's rule that holds back one of its answers until the test lets it go."""

    def __init__(self, number: int) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()
        self._number = number

    def __call__(self, call: Call) -> str:
        if call.number == self._number:
            self.asked.set()
            self.let_go.wait(100)
        return f"{SKY}, for once and all."
