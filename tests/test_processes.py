"""Child processes end with the block that started them, and with the process that started them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agentlightning import processes
from agentlightning.processes import child_process
from tests.processes import TIMEOUT, Program

ENDS_ON_SIGTERM = """
import signal, sys, threading
terminated = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: terminated.set())
print("ready", *sys.argv[1:], flush=True)
terminated.wait()
print("goodbye", flush=True)
"""

IGNORES_SIGTERM = """
import signal, threading
from agentlightning import processes
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready an argument", flush=True)
threading.Event().wait()
"""

PARENT = """
import threading
from agentlightning.processes import child_process
with child_process("child") as process:
    print("child", process.pid, flush=True)
    threading.Event().wait()
"""


@contextmanager
def child(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[subprocess.Popen[str]]:
    (folder / "child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with child_process("child", "an argument", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready an argument\n"
        assert os.getsid(process.pid) == process.pid  # a Ctrl-C in the parent's terminal does not reach it
        yield process


def test_child_that_handles_sigterm_can_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(ENDS_ON_SIGTERM, tmp_path, monkeypatch) as process:
        process.stdin.close()

        assert process.stdout.read() == "goodbye\n"

    assert process.returncode == 0


def test_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.0)  # the parent's own limit, one second later
    with child(IGNORES_SIGTERM, tmp_path, monkeypatch) as process:
        pass

    assert process.returncode == -9


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(ENDS_ON_SIGTERM)
    (tmp_path / "parent.py").write_text(PARENT)

    with Program(tmp_path / "parent.py", environment={"PYTHONPATH": str(tmp_path)}) as parent:
        orphan = psutil.Process(int(parent.wait_for_line("child (.*)")[1]))
        parent.kill()

    assert psutil.wait_procs([orphan], timeout=TIMEOUT)[0] == [orphan]
