"""Text from stores, models and exceptions that commands print: nothing in it controls the terminal."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path

from click.testing import CliRunner

from agentlightning.cli import main
from agentlightning.trainer.display import Display
from agentlightning.trainer.result import RunResult
from tests.processes import Program
from tests.test_logs import UNSAFE, unsafe_characters

TEXT = "[red]:smile:" + "".join(UNSAFE)


def test_error_message_is_escaped() -> None:
    refused = CliRunner().invoke(main, ["resume", "\x1b]0;owned\x07\u202e"])

    assert refused.exit_code == 1
    assert unsafe_characters(refused.output) == set()
    assert r"\x1b]0;owned\x07\u202e" in refused.output


def test_run_from_elsewhere_is_shown_escaped(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20260101-000000-x"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"algorithm": "\x1b[2J\nforged", "command": ["\x9b1m\x7f"]}))

    listed = CliRunner().invoke(main, ["runs", "list", str(tmp_path / "runs")])
    shown = CliRunner().invoke(main, ["runs", "show", str(run)])

    assert (listed.exit_code, shown.exit_code) == (0, 0)
    assert unsafe_characters(listed.output + shown.output) == set()
    assert len(listed.output.splitlines()) == 1


def test_uncaught_exception_is_printed_escaped(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("raise ValueError('\\x1b]0;owned\\x07\\u202e')")
    with Program("agentlightning.cli", "train", "agent.py:agent", cwd=tmp_path) as program:
        assert program.wait() == 1

    assert "Traceback (most recent call last):" in program.lines
    assert program.lines[-1] == r"ValueError: \x1b]0;owned\x07\u202e"


def test_progress_display_escapes_metrics_and_failures() -> None:
    written = io.StringIO()
    with redirect_stderr(written):
        display = Display(live=False)
        display.on_metrics({"text": TEXT, "loss": 0.5}, 3)
        display.on_end(RunResult(name="x", failures={TEXT: 2}, report={"summary": TEXT}))

    assert written.getvalue().startswith("step 3: text [red]:smile:\\x00")
    assert unsafe_characters(written.getvalue()) == set()
