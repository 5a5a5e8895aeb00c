"""Scripts with a Trainer, as processes that are known to be gone when they are."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import PATIENCE, Program

SCRIPT = Path(__file__).with_name("script.py")


class Run(Program):
    """The script, with a mark in its environment that all its children have too."""

    def __init__(self, folder: Path, *arguments: str, script: Path = SCRIPT, **environment: str) -> None:
        self.mark = str(uuid.uuid4())
        super().__init__(
            script,
            *arguments,
            cwd=folder,
            environment={"MARK": self.mark, "PYTHONPATH": str(Path.cwd()), **environment},
        )

    @property
    def descendants(self) -> list[psutil.Process]:
        """All processes that it has started, whoever their parent is now."""
        return [process for process in psutil.process_iter() if self.mark in _mark_of(process)]

    def leaves_nothing(self) -> bool:
        """Whether all of them are gone, soon."""
        psutil.wait_procs(self.descendants, timeout=PATIENCE)
        return not self.descendants


def _mark_of(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return process.environ().get("MARK", "")
    except psutil.Error:
        return ""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start the script in the test's folder."""
    started: list[Run] = []

    def start(*arguments: str, **environment: str) -> Run:
        started.append(Run(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        for process in each.descendants:
            process.kill()
