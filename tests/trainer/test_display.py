"""Terminal output of a run, through a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals on Windows")

SCRIPT = """
import agentlightning as agl

def agent(task):
    {body}
    return 0.5

trainer = agl.Trainer(strategy="shm", tracer=agl.OtelTracer())
trainer.{call}(agent, [41, 42])
"""


def run_in_terminal(folder: Path, script: str, *, typed: str = "", stdout: Path | None = None) -> str:
    """Run the script in a terminal, and return the terminal's output."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        if stdout:
            os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
        os.execv(sys.executable, [sys.executable, "-c", script])
    os.write(terminal, typed.encode())
    shown = _read_all(terminal)
    assert os.waitpid(pid, 0)[1] == 0, shown
    return shown


def _read_all(terminal: int) -> str:
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # on Linux: the other end is closed
        pass
    os.close(terminal)
    return shown.decode()


def test_live_line_is_shown_in_the_terminal_and_agent_output_goes_to_the_file(tmp_path: Path):
    script = SCRIPT.format(body="print('task', task)", call="fit")

    shown = run_in_terminal(tmp_path, script, stdout=tmp_path / "out.txt")

    assert "\x1b[?25l" in shown  # the cursor is hidden while a live line is shown
    assert re.search(r"\[\d+:\d\d\] 2 done, mean reward 0\.500", shown)
    assert "task 41" not in shown
    assert (tmp_path / "out.txt").read_text() == "task 41\ntask 42\n"


def test_breakpoint_in_the_agent_works_with_dev(tmp_path: Path):
    script = SCRIPT.format(body="breakpoint()", call="dev")

    shown = run_in_terminal(tmp_path, script, typed="p task + 1000\nc\np task + 1000\nc\n")

    assert "\x1b[" not in shown
    assert shown.count("(Pdb)") == 4
    assert "1041" in shown
    assert "1042" in shown
    assert "2 succeeded" in shown
