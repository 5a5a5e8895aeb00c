"""`agl train`, `agl runs`, and the TensorBoard callback."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from agentlightning.trainer import TensorBoard
from tests.processes import Program, free_port

FILE = """
PROMPT = "Add {a}"
TASKS = [{"a": 1}, {"a": 2}]

def adder(task, prompt_template):
    return float(len(prompt_template.format(a=task["a"])))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adding.py").write_text(FILE)
    return tmp_path


def agl_command(*arguments: str, folder: Path) -> Program:
    return Program("agentlightning.cli", *arguments, environment={"PYTHONPATH": str(Path.cwd())}, cwd=folder)


def test_agent_in_a_file_runs_without_a_script(folder: Path, monkeypatch: pytest.MonkeyPatch):
    program = agl_command("train", "adding.py:adder", "--strategy", "shm", "--run-dir", "runs/one", folder=folder)

    assert program.wait() == 0, program.output
    program.wait_for_line("Run one finished after .*: 2 succeeded, mean reward 5.000. Saved to .*/runs/one")
    monkeypatch.chdir(folder)
    listed = CliRunner().invoke(main, ["runs"]).output
    assert listed.split()[:3] == ["one", "finished", "Baseline"]
    shown = CliRunner().invoke(main, ["runs", "show", str(folder / "runs/one")]).output
    assert "agent: adder" in shown
    assert "{'succeeded': 2}, mean reward 5.0" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py:adder"], "'nowhere.py:adder' must have the form FILE.py:NAME"),
        (["adding.py:divider"], "adding.py does not define divider"),
        (["adding.py:adder", "--algorithm", "magic"], "unknown algorithm 'magic'; choose from 'baseline'"),
        (["adding.py:adder", "--algorithm", "apo"], "APO needs access to models that write prompts: .*OPENAI_API_KEY"),
        (["adding.py:adder", "--run-dir", "."], "already contains a run"),
        (["adding.py:adder", "--port", "high"], "'high' is not a valid integer"),
    ],
)
def test_wrong_argument_is_named(arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delitem(sys.modules, "adding", raising=False)
    (folder / "config.json").write_text("{}")

    ended = CliRunner().invoke(main, ["train", *arguments])

    assert ended.exit_code in (1, 2)
    assert re.search(message, ended.output.replace("\n", " "))


def test_error_of_an_algorithm_in_a_file_is_shown_with_its_traceback(folder: Path):
    (folder / "adding.py").write_text(f"{FILE}\ndef best(store):\n    raise ValueError('no idea')\n")
    program = agl_command("train", "adding.py:adder", "--algorithm", "best", "--strategy", "shm", folder=folder)

    assert program.wait() == 1
    program.wait_for_line("raise ValueError\\('no idea'\\)")


def test_agl_train_can_run_each_role_in_its_own_process(folder: Path):
    command = ["train", "adding.py:adder", "--port", str(free_port())]
    runners = agl_command(*command, "--role", "runner", "--n-runners", "2", folder=folder)
    algorithm = agl_command(*command, "--role", "algorithm", folder=folder)

    assert algorithm.wait() == 0, algorithm.output
    assert runners.wait() == 0, runners.output
    algorithm.wait_for_line("2 succeeded, mean reward 5.000")


def test_tensorboard_receives_the_metrics(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    trainer = agl.Trainer(strategy="shm", tracer=agl.OtelTracer(), progress=False, callbacks=[TensorBoard()])

    result = trainer.fit(lambda task: 1.0, [1])

    [events] = (result.folder / "tensorboard").iterdir()
    assert b"train/mean_reward" in events.read_bytes()
    assert b"rollouts/succeeded" in events.read_bytes()
