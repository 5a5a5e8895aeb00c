"""`agl run`, `agl reward`, `agl replay` and `agl regrade`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import agentlightning as agl
from tests.processes import TIMEOUT, Program
from tests.scripted_model import ScriptedModel


def run_agl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    unset = {"AGL_STORE_URL", "AGL_TOKEN", "AGL_DB", "AGL_REWARD_FILE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-m", "agentlightning.cli", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


async def stored(folder: Path) -> list[tuple[agl.Rollout, list[agl.Span]]]:
    async with agl.open_store(str(folder / "agl.db")) as store:
        rollouts = await store.query_rollouts(sort_by="start_time")
        return [(rollout, list(await store.query_spans(rollout.rollout_id))) for rollout in rollouts]


async def test_program_runs_once_for_each_task_and_rewards_are_printed(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('0.25\n{"worth": 1}\n')
    (tmp_path / "grade.py").write_text("def grade(task, output):\n    return task if task == 0.25 else task['worth']\n")

    ran = run_agl(
        "run", "--tasks", "tasks.jsonl", "--grader", "grade.py:grade", "--", "sh", "-c", "echo hi", cwd=tmp_path
    )

    assert ran.returncode == 0, ran.stderr
    assert [line.partition(" ")[2] for line in ran.stdout.splitlines()] == [
        "succeeded, reward 0.25",
        "succeeded, reward 1",
    ]
    assert [rollout.input for rollout, _ in await stored(tmp_path)] == [0.25, {"worth": 1}]


def test_failed_run_exits_with_1(tmp_path: Path) -> None:
    ran = run_agl("run", "--timeout", "0.3", "--", "sleep", "300", cwd=tmp_path)

    assert ran.returncode == 1
    assert "failed, reward none" in ran.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=lambda each: str(each)
)
def test_no_program_of_an_agent_outlives_the_command(number: signal.Signals, code: int, tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/child; echo up > {tmp_path}/there; sleep 300"
    os.mkfifo(tmp_path / "there")
    with Program("agentlightning.cli", "run", "--", "sh", "-c", script, cwd=tmp_path) as program:
        assert (tmp_path / "there").read_text() == "up\n"
        left = psutil.Process(int((tmp_path / "child").read_text()))
        program.send_signal(number)
        assert program.wait() == code

    _, alive = psutil.wait_procs([left], timeout=TIMEOUT)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in program.output


def test_reward_outside_run_is_rejected(tmp_path: Path) -> None:
    ran = run_agl("reward", "0.5", cwd=tmp_path)

    assert ran.returncode == 1
    assert "AGL_REWARD_FILE is not set" in ran.stderr


async def test_recorded_run_is_replayed_and_regraded_without_model(tmp_path: Path) -> None:
    (tmp_path / "agent.sh").write_text(
        'curl -sS --fail "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" '
        '-H "Content-Type: application/json" -d "{\\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": '
        '\\"$AGL_TASK\\"}], \\"model\\": \\"tiny\\"}"\necho; echo 0.5\n'
    )
    (tmp_path / "grade.py").write_text("def grade(task, output):\n    return 1.0 if task in output else 0.0\n")
    with ScriptedModel() as model:
        ran = run_agl("run", "--model", f"tiny={model.base_url}", "--task", "hi", "--", "sh", "agent.sh", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rollout_id = ran.stdout.split()[0]

    replayed = run_agl("replay", rollout_id, "--", "sh", "agent.sh", cwd=tmp_path)
    regraded = run_agl("regrade", "--grader", "grade.py:grade", cwd=tmp_path)
    (tmp_path / "agent.sh").write_text((tmp_path / "agent.sh").read_text().replace("user", "system"))
    changed = run_agl("replay", rollout_id, "--", "sh", "agent.sh", cwd=tmp_path)

    assert (replayed.returncode, replayed.stdout.splitlines()[0]) == (0, "1 of 1 calls match the recording."), (
        replayed.stdout
    )
    assert regraded.stdout.splitlines() == [f"{rollout_id} 0.5 -> 1", "1 rollouts, mean 0.5 -> 1"]
    assert changed.returncode == 1
    assert 'call 1 differs: messages.0.role was "user", is "system"' in changed.stdout
