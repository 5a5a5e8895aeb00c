"""`agl train` and `agl runs`, and TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from agentlightning.trainer import TensorBoard
from tests.processes import Program

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


def test_an_agent_in_a_file_is_run_without_a_script(folder: Path):
    program = agl_command("train", "adding.py:adder", "--strategy", "shm", "--run-dir", "runs/one", folder=folder)

    assert program.wait() == 0, program.output
    program.wait_for_line("Run one finished after .*: 2 succeeded, mean reward 5.000. It lies in .*/runs/one")
    listed = CliRunner().invoke(main, ["runs", "list", str(folder / "runs")]).output
    assert listed.split()[:3] == ["one", "finished", "Baseline"]
    shown = CliRunner().invoke(main, ["runs", "show", str(folder / "runs/one")]).output
    assert "agent: adder" in shown
    assert "{'succeeded': 2}, mean reward 5.0" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.py:adder"], "'nowhere.py:adder' is not FILE.py:AGENT"),
        (["adding.py:divider"], "adding.py has no divider"),
        (["adding.py:adder", "--algorithm", "magic"], "algorithm='magic' means nothing"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], complaint: str, folder: Path):
    program = agl_command("train", *arguments, folder=folder)

    assert program.wait() == 1
    program.wait_for_line(complaint)
    assert "Traceback" not in program.output


def test_tensorboard_gets_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    trainer = agl.Trainer(strategy="shm", tracer=agl.OtelTracer(), progress=False, callbacks=[TensorBoard()])

    result = trainer.fit(lambda task: 1.0, [1])

    [events] = (result.folder / "tensorboard").iterdir()
    assert b"train/mean_reward" in events.read_bytes()
    assert b"rollouts/succeeded" in events.read_bytes()
