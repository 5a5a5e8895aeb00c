"""Scripts with a Trainer in child processes, with a check for processes that they leave running."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import TIMEOUT, Program

SCRIPT = Path(__file__).with_name("script.py")


class ScriptRun(Program):
    """The script, with a variable in its environment by which its child processes are found."""

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
        """All processes that the script has started, including those that have another parent by now."""
        return [process for process in psutil.process_iter() if self.mark in _mark_of(process)]

    def leaves_no_process(self) -> bool:
        """Wait for all of them to end; return False if one does not."""
        psutil.wait_procs(self.descendants, timeout=TIMEOUT)
        return not self.descendants


def _mark_of(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return process.environ().get("MARK", "")
    except psutil.Error:
        return ""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., ScriptRun]]:
    """Start the script in the test's folder."""
    started: list[ScriptRun] = []

    def start(*arguments: str, **environment: Any) -> ScriptRun:
        started.append(ScriptRun(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        for process in each.descendants:
            process.kill()
