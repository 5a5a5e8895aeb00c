"""Runs that are resumed after they were killed or stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main as agl_command
from agentlightning.errors import Conflict
from agentlightning.trainer.keyed_store import KeyedStore
from agentlightning.trainer.run_folder import RunFolder, folders, new_folder, unfinished
from agentlightning.types import EnqueueRolloutRequest
from tests.processes import Program, free_port
from tests.trainer.conftest import ScriptRun

Start = Callable[..., ScriptRun]


def test_agl_resume_does_not_repeat_completed_rollouts(run: Start, tmp_path: Path):
    script = run("cs", "waits_before_the_third")
    script.wait_for_line(r"^\[Rollout\] Be kind")
    script.kill()
    assert script.leaves_no_process()
    [folder] = folders(tmp_path / "runs")
    assert folder.result() is None
    assert "unfinished" in CliRunner().invoke(agl_command, ["runs", "list", str(tmp_path / "runs")]).output

    environment = {"PYTHONPATH": str(Path.cwd()), "GO": "yes"}
    with Program("agentlightning.cli", "resume", str(folder.path), environment=environment, cwd=tmp_path) as resumed:
        assert resumed.wait() == 0, resumed.output

    resumed.wait_for_line(r"^\[Algo\] Best prompt found: 'You are a knowledgeable AI")
    assert [line for line in resumed.lines if line.startswith("[Rollout]")] == ["[Rollout] Be kind. {any_question}"]
    resumed.wait_for_line(r"^\[Result\] finished \[\('succeeded', 3\)\]")
    shown = CliRunner().invoke(agl_command, ["runs", "show", str(folder.path)]).output
    assert "finished after" in shown
    assert "You are a knowledgeable AI" in shown
    assert CliRunner().invoke(agl_command, ["resume", str(folder.path)]).exit_code == 1


def test_latest_unfinished_run_is_resumed_by_the_same_runners(run: Start, tmp_path: Path):
    address = {"AGL_SERVER_PORT": str(free_port()), "AGL_TOKEN": "a secret of some length"}
    runners = run("cs", "waits_for_a_file", AGL_CURRENT_ROLE="runner", **address)
    algorithm = run("cs", "waits_for_a_file", AGL_CURRENT_ROLE="algorithm", AGL_SERVER_HOST="0.0.0.0", **address)
    runners.wait_for_line(r"^\[Rollout\] You are helpful")
    algorithm.kill()

    again = run(
        "cs", "waits_for_a_file", "resume=yes", AGL_CURRENT_ROLE="algorithm", AGL_SERVER_HOST="0.0.0.0", **address
    )
    again.wait_for_line(r"^\[Algo\] Queued")
    (tmp_path / "go").touch()

    assert again.wait() == 0, again.output
    assert runners.wait() == 0, runners.output
    assert runners.output.count("[Rollout]") == 3
    assert "[Algo]" not in runners.output
    again.wait_for_line(r"^\[Result\] finished \[\('succeeded', 3\)\]")
    assert len(list(folders(tmp_path / "runs"))) == 1
    assert runners.leaves_no_process()


def test_rollout_interrupted_by_ctrl_c_is_run_again(run: Start):
    first = run("fork", "waits_for_a_file", "attempts=1")
    first.wait_for_line(r"^\[Rollout\] You are helpful")
    first.send_signal(signal.SIGINT)
    first.wait()

    again = run("fork", "score", "attempts=1", "run_dir=" + first.lines[-1].rpartition(" ")[2], "resume=yes")

    assert again.wait() == 0, again.output
    again.wait_for_line(r"^\[Algo\] Best prompt found: 'You are a knowledgeable AI")
    again.wait_for_line(r"^\[Result\] finished \[\('failed', 1\), \('succeeded', 3\)\]")


def test_folder_with_a_run_is_not_overwritten(tmp_path: Path):
    trainer = agl.Trainer(strategy="shm", tracer=agl.OtelTracer, progress=False, run_dir=tmp_path / "mine")
    trainer.fit(lambda task: 1.0, [1])

    with pytest.raises(FileExistsError, match="/mine already contains a run: pass resume=True"):
        trainer.fit(lambda task: 1.0, [1])


async def test_key_identifies_one_rollout():
    async with agl.InMemoryLightningStore() as inner:
        store = KeyedStore(inner)
        first = await store.enqueue_rollout("task", metadata={"key": "one"})
        two = [EnqueueRolloutRequest(input=n, metadata={"key": key}) for n, key in enumerate(["two", "one"])]

        enqueued = await store.enqueue_many_rollouts(two)
        later = KeyedStore(inner)
        await later.load_keys()

        assert enqueued[1].rollout_id == first.rollout_id
        assert (await later.enqueue_rollout("task", metadata={"key": "two"})).rollout_id == enqueued[0].rollout_id
        assert (await inner.statistics())["rollouts"] == {"queuing": 2}
        with pytest.raises(Conflict, match="same key"):
            await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=1, metadata={"key": "x"})] * 2)


async def test_cancelled_rollout_is_enqueued_again_by_a_resumed_run():
    async with agl.InMemoryLightningStore() as inner:
        first = await KeyedStore(inner).enqueue_rollout("task", metadata={"key": "one"})
        await inner.update_rollout(first.rollout_id, status="cancelled")

        store = KeyedStore(inner)
        await store.load_keys()

        assert (await store.enqueue_rollout("task", metadata={"key": "one"})).rollout_id != first.rollout_id


def test_two_runs_never_share_a_folder(tmp_path: Path):
    names = {new_folder("my algorithm!", tmp_path).name for _ in range(3)}

    assert len(names) == 3
    assert all("my-algorithm" in name for name in names)


def test_only_a_run_of_the_same_algorithm_and_agent_is_resumed(tmp_path: Path):
    folder = new_folder("a", tmp_path)
    folder.start({"algorithm": "a", "agent": "x"})

    assert unfinished({"algorithm": "a", "agent": "y"}, tmp_path) is None
    assert unfinished({"algorithm": "a", "agent": "x"}, tmp_path).path == folder.path
    assert RunFolder(folder.path).config()["process"] == os.getpid()
