"""The tutorial's algorithm under `trainer.fit`, as a script: wherever both sides run, and however they end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agentlightning.trainer.run_folder import folders
from tests.processes import free_port
from tests.trainer.conftest import Run

BEST = r"^\[Algo\] Best prompt found: 'You are a knowledgeable AI. {any_question}' with reward 0.4"
Start = Callable[..., Run]


@pytest.mark.parametrize("where", ["cs", "shm", "fork", "spawn", "forkserver"])
def test_it_finds_the_best_prompt_and_leaves_nothing(run: Start, where: str, tmp_path: Path):
    script = run(where, "score", "runners=4")

    assert script.wait() == 0, script.output
    script.wait_for_line(BEST)
    script.wait_for_line(r"^\[Result\] finished \[\('succeeded', 3\)\]")
    assert script.leaves_nothing()
    [folder] = folders(tmp_path / "runs")
    result = folder.result()
    assert result is not None
    assert result.best_resources is not None
    assert result.best_resources["prompt_template"].template.startswith("You are a knowledgeable AI")
    assert [tried.rollouts for tried in result.history] == [1, 1, 1]
    assert "Completed in" in folder.log.read_text()
    assert '"rollouts/succeeded": 3' in folder.metrics.read_text()


def test_it_works_where_an_event_loop_runs_already(run: Start):
    script = run("cs", "score", "notebook=yes")

    assert script.wait() == 0, script.output
    script.wait_for_line(BEST)


def test_the_same_script_is_algorithm_here_and_runners_there(run: Start):
    place = {"AGL_SERVER_PORT": str(free_port()), "AGL_SERVER_HOST": "127.0.0.1"}
    runners = run("cs", "score", "runners=2", AGL_CURRENT_ROLE="runner", **place)
    algorithm = run("cs", "score", AGL_CURRENT_ROLE="algorithm", **place)

    assert algorithm.wait() == 0, algorithm.output
    assert runners.wait() == 0, runners.output
    algorithm.wait_for_line(BEST)
    assert "[Algo]" not in runners.output
    assert algorithm.leaves_nothing()
    assert runners.leaves_nothing()


@pytest.mark.parametrize("where", ["fork", "shm"])
def test_an_algorithm_that_raises_ends_the_run_with_its_own_traceback(run: Start, where: str, tmp_path: Path):
    script = run(where, "score", "crash=yes", "runners=2")

    assert script.wait() == 1
    script.wait_for_line('raise ZeroDivisionError\\("the algorithm has a mistake"\\)')
    script.wait_for_line("^ZeroDivisionError: the algorithm has a mistake")
    assert script.leaves_nothing()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "failed"
    assert folder.result().error == "ZeroDivisionError: the algorithm has a mistake"


@pytest.mark.parametrize("where", ["fork", "spawn", "shm"])
def test_a_runner_that_raises_ends_the_run_with_its_own_traceback(run: Start, where: str, tmp_path: Path):
    script = run(where, "score", "broken=yes", "runners=2")

    assert script.wait() == 1
    script.wait_for_line('raise LookupError\\("the runner has a mistake"\\)')
    script.wait_for_line("^LookupError: the runner has a mistake")
    assert script.leaves_nothing()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "failed"
    assert folder.result().error == "LookupError: the runner has a mistake"


@pytest.mark.parametrize("where", ["fork", "spawn", "forkserver"])
def test_an_agent_that_kills_its_runner_costs_a_retry(run: Start, where: str, tmp_path: Path):
    script = run(where, "kills_its_runner_once", "runners=2")

    assert script.wait() == 0, script.output
    script.wait_for_line(BEST)
    assert [int(line[-1]) for line in script.lines if line.startswith("[Rollout] attempt")] == [1, 2, 1, 1, 2]
    [folder] = folders(tmp_path / "runs")
    deaths = re.findall(r"Its process \(\d+\) (.*);", folder.log.read_text())
    assert deaths == ["exited with code 3", "was killed by SIGSEGV"]


def test_runners_that_die_again_and_again_end_the_run(run: Start):
    script = run("fork", "kills_its_runner")

    assert script.wait() == 1
    script.wait_for_line(r"\[Algo\] failed its runner's process exited with code 3")
    script.wait_for_line("RunnerDied: runners died 4 times, .* the last one exited with code 3")
    assert script.leaves_nothing()


@pytest.mark.parametrize("where", ["fork", "forkserver"])
def test_a_runner_that_is_killed_is_started_again(run: Start, where: str):
    script = run(where, "slow")
    pid = int(script.wait_for_line(r"^\[Rollout\] begun in (\d+)$")[1])
    os.kill(pid, signal.SIGKILL)

    script.wait_for_line(rf"^\[Rollout\] begun in (?!{pid}$)")
    script.send_signal(signal.SIGINT)
    script.wait()
    assert script.leaves_nothing()


@pytest.mark.parametrize(
    ("where", "stop"),
    [
        ("fork", signal.SIGINT),
        ("fork", signal.SIGTERM),
        ("spawn", signal.SIGINT),
        ("forkserver", signal.SIGINT),
        ("shm", signal.SIGINT),
        ("shm", signal.SIGTERM),
    ],
)
def test_a_signal_stops_everything(run: Start, where: str, stop: signal.Signals, tmp_path: Path):
    script = run(where, "slow", "runners=2")
    script.wait_for_line(r"^\[Rollout\] begun")

    os.killpg(script.pid, stop)

    assert script.wait() == (-signal.SIGINT if stop == signal.SIGINT else 143)
    assert script.leaves_nothing()
    [folder] = folders(tmp_path / "runs")
    assert folder.result().status == "stopped"
    if stop == signal.SIGINT:
        assert script.lines[-1] == f"KeyboardInterrupt: to go on with it: agl resume {folder.path}"


def test_a_second_ctrl_c_stops_at_once(run: Start):
    script = run("patient", "slow", "log=yes", "drain=110")  # which waits for agents that are at work
    script.wait_for_line(r"^\[Rollout\] begun")
    script.send_signal(signal.SIGINT)
    script.wait_for_line("Stopping, since SIGTERM")

    script.send_signal(signal.SIGINT)

    script.wait(timeout=40)  # the agent is at work for a minute
    assert script.leaves_nothing()


@pytest.mark.parametrize("where", ["fork", "spawn", "forkserver"])
def test_runners_end_when_the_algorithms_process_is_killed(run: Start, where: str):
    script = run(where, "slow", "runners=2")
    script.wait_for_line(r"^\[Rollout\] begun")

    script.kill()

    assert script.leaves_nothing()


def test_runners_end_when_what_keeps_them_is_killed(run: Start):
    script = run("fork", "slow")
    runner = psutil.Process(int(script.wait_for_line(r"^\[Rollout\] begun in (\d+)")[1]))

    runner.parent().kill()

    assert script.wait() == 1
    script.wait_for_line("RunnerDied: the process that keeps the runners was killed")
    assert script.leaves_nothing()


BAD_AGENTS = {
    "raises": r"failed KeyError: key 'no such .+ tool'",
    "exits": r"failed SystemExit: the agent asked Python to exit \(I give up\)",
    "talks nonsense": r"failed AgentError: agent agent returned a dict",
    "hangs": r"failed took longer than timeout_seconds=0.5",
    "blocks the event loop": r"failed took longer than timeout_seconds=0.5",
    "behaves": "succeeded None",
}


@pytest.mark.parametrize("where", ["fork", "shm"])
def test_bad_agents_leave_the_run_alive_and_are_told_of_rightly(run: Start, where: str):
    script = run(where, script=Path(__file__).with_name("misbehaving.py"))

    assert script.wait() == 0, script.output
    for way, ending in BAD_AGENTS.items():
        script.wait_for_line(rf"^\[Algo\] {way}: {ending}")
    script.wait_for_line(r"^\[Result\] finished \[\('failed', 5\), \('succeeded', 1\)\]")
    assert script.leaves_nothing()
