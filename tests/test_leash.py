"""A leashed process ends with the context that started it, and with the process that started it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agentlightning.processes import leashed
from tests.processes import PATIENCE, Program

POLITE = """
import signal, sys, threading
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("ready", *sys.argv[1:], flush=True)
asked.wait()
print("goodbye", flush=True)
"""

STUBBORN = """
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready an argument", flush=True)
threading.Event().wait()
"""

PARENT = """
import threading
from agentlightning.processes import leashed
with leashed("child") as process:
    print("child", process.pid, flush=True)
    threading.Event().wait()
"""


@contextmanager
def child(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[subprocess.Popen[str]]:
    (folder / "child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with leashed("child", "an argument", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready an argument\n"
        yield process


def test_it_is_asked_to_end_and_may_do_so_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(POLITE, tmp_path, monkeypatch) as process:
        process.stdin.close()

        assert process.stdout.read() == "goodbye\n"

    assert process.returncode == 0


def test_it_ends_even_if_it_will_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(STUBBORN, tmp_path, monkeypatch) as process:
        pass

    assert process.returncode == 1


def test_it_hears_nothing_of_a_ctrl_c_in_its_parents_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(POLITE, tmp_path, monkeypatch) as process:
        assert os.getsid(process.pid) == process.pid


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(POLITE)
    (tmp_path / "parent.py").write_text(PARENT)

    with Program(tmp_path / "parent.py", environment={"PYTHONPATH": str(tmp_path)}) as parent:
        orphan = psutil.Process(int(parent.wait_for_line("child (.*)")[1]))
        parent.kill()

    assert psutil.wait_procs([orphan], timeout=PATIENCE)[0] == [orphan]
