"""`trainer.fit` in a script: every strategy, and every way in which the algorithm, runners and agents can end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentlightning.trainer.run_folder import folders
from tests.trainer.conftest import ScriptRun

BEST = r"^\[Algo\] Best prompt found: 'You are a knowledgeable AI. {any_question}' with reward 0.4"
Start = Callable[..., ScriptRun]


@pytest.mark.parametrize("strategy", ["cs", "shm", "spawn", "forkserver"])
def test_run_finds_the_best_prompt_and_leaves_no_process(run: Start, strategy: str, tmp_path: Path):
    script = run(strategy, "score", "runners=2")

    assert script.wait() == 0, script.output
    script.wait_for_line(BEST)
    script.wait_for_line(r"^\[Result\] finished \[\('succeeded', 3\)\]")
    assert script.leaves_no_process()
    [folder] = folders(tmp_path / "runs")
    result = folder.result()
    assert result is not None
    assert result.best_resources is not None
    best: Any = result.best_resources
    assert best["prompt_template"].template.startswith("You are a knowledgeable AI")
    assert [candidate.rollouts for candidate in result.history] == [1, 1, 1]
    assert "Completed in" in folder.log.read_text()
    assert '"rollouts/succeeded": 3' in folder.metrics.read_text()


@pytest.mark.parametrize("strategy", ["fork", "shm"])
def test_error_of_the_algorithm_ends_the_run_with_its_traceback(run: Start, strategy: str, tmp_path: Path):
    script = run(strategy, "score", "crash=yes", "runners=2")

    assert script.wait() == 1
    script.wait_for_line('raise ZeroDivisionError\\("the algorithm has a mistake"\\)')
    script.wait_for_line("^ZeroDivisionError: the algorithm has a mistake")
    assert script.leaves_no_process()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "failed"
    assert folder.result().error == "ZeroDivisionError: the algorithm has a mistake"


@pytest.mark.parametrize("strategy", ["fork", "shm"])
def test_error_of_a_runner_ends_the_run_with_its_traceback(run: Start, strategy: str, tmp_path: Path):
    script = run(strategy, "score", "broken=yes", "runners=2")

    assert script.wait() == 1
    script.wait_for_line('raise LookupError\\("the runner has a mistake"\\)')
    script.wait_for_line("^LookupError: the runner has a mistake")
    assert script.leaves_no_process()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "failed"
    assert folder.result().error == "LookupError: the runner has a mistake"


def test_rollout_whose_agent_kills_the_runner_is_retried(run: Start, tmp_path: Path):
    script = run("fork", "kills_its_runner_once", "runners=2")

    assert script.wait() == 0, script.output
    script.wait_for_line(BEST)
    assert [int(line[-1]) for line in script.lines if line.startswith("[Rollout] attempt")] == [1, 2, 1, 1, 2]
    [folder] = folders(tmp_path / "runs")
    deaths = re.findall(r"Process \d+ (.*);", folder.log.read_text())
    assert deaths == ["exited with code 3", "was killed by SIGKILL (out of memory?)"]


def test_too_many_crashes_in_a_row_end_the_run(run: Start):
    script = run("fork", "kills_its_runner")

    assert script.wait() == 1
    script.wait_for_line(r"\[Algo\] failed its runner's process exited with code 3")
    script.wait_for_line("RunnerDied: runner processes died 4 times, .* the last one exited with code 3")
    assert script.leaves_no_process()


@pytest.mark.parametrize(
    ("strategy", "stop"),
    [
        ("fork", signal.SIGINT),
        ("fork", signal.SIGTERM),
        ("spawn", signal.SIGINT),
        ("shm", signal.SIGINT),
    ],
)
def test_signal_stops_all_processes(run: Start, strategy: str, stop: signal.Signals, tmp_path: Path):
    script = run(strategy, "slow", "runners=2")
    script.wait_for_line(r"^\[Rollout\] started")

    os.killpg(script.pid, stop)

    assert script.wait() == (-signal.SIGINT if stop == signal.SIGINT else 143)
    assert script.leaves_no_process()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "stopped"
    if stop == signal.SIGINT:
        assert script.lines[-1] == f"KeyboardInterrupt: to continue: agl resume {folder.path}"


def test_second_ctrl_c_stops_at_once(run: Start):
    script = run("long grace", "slow", "log=yes", "drain=110")
    script.wait_for_line(r"^\[Rollout\] started")
    script.send_signal(signal.SIGINT)
    script.wait_for_line(r"Stopping \(reason: SIGTERM\)")

    script.send_signal(signal.SIGINT)

    script.wait()  # although the agent runs for a minute
    assert script.leaves_no_process()


@pytest.mark.parametrize("strategy", ["fork", "spawn", "forkserver"])
def test_runners_end_when_the_main_process_is_killed(run: Start, strategy: str):
    script = run(strategy, "slow", "runners=1")
    script.wait_for_line(r"^\[Rollout\] started")

    script.kill()

    assert script.leaves_no_process()


def test_run_fails_and_runners_end_when_the_fork_server_is_killed(run: Start):
    script = run("fork", "slow")
    runner = psutil.Process(int(script.wait_for_line(r"^\[Rollout\] started in (\d+)")[1]))

    runner.parent().kill()

    assert script.wait() == 1
    script.wait_for_line("RunnerDied: the process that starts the runners was killed")
    assert script.leaves_no_process()


BAD_AGENTS = {
    "raises": r"failed KeyError: key 'no such .+ tool'",
    "exits": r"failed SystemExit: the agent tried to exit the process \(I give up\)",
    "returns nonsense": r"failed AgentError: agent agent returned a dict",
    "hangs": r"failed took longer than timeout_seconds=0.5",
    "blocks the event loop": r"failed took longer than timeout_seconds=0.5",
    "behaves": "succeeded None",
}


@pytest.mark.parametrize("strategy", ["fork", "shm"])
def test_misbehaving_agents_fail_their_rollouts_and_not_the_run(run: Start, strategy: str):
    script = run(strategy, script=Path(__file__).with_name("misbehaving.py"))

    assert script.wait() == 0, script.output
    for failure, ending in BAD_AGENTS.items():
        script.wait_for_line(rf"^\[Algo\] {failure}: {ending}")
    script.wait_for_line(r"^\[Result\] finished \[\('failed', 5\), \('succeeded', 1\)\]")
    assert script.leaves_no_process()
