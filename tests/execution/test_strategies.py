"""Execution strategies with two plain callables as algorithm and runner."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import InvalidInput
from agentlightning.runner.context import worker_id_prefix


async def enqueue_and_wait(store: agl.LightningStore) -> dict[str, Any]:
    """Run as the algorithm."""
    rollout = await store.enqueue_rollout("task")
    ended: Any = (await store.wait_for_rollouts([rollout.rollout_id]))[0]
    return ended.attempt.metadata


async def claim_and_report(store: agl.LightningStore, worker: int, stop: Any) -> None:
    """Run as a runner."""
    while not stop.is_set():
        if claimed := await store.dequeue_rollout(wait=0.2):
            metadata = {"worker": worker, "pid": os.getpid()}
            await store.update_attempt(
                claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded", metadata=metadata
            )


def sqlite_in(folder: Path) -> Any:
    return lambda: agl.SqliteLightningStore(folder / "agl.db")


def test_shared_memory_runs_everything_in_this_process(tmp_path: Path):
    metadata = agl.SharedMemoryExecutionStrategy().execute(enqueue_and_wait, claim_and_report, sqlite_in(tmp_path))

    assert metadata == {"worker": 0, "pid": os.getpid()}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_client_server_runs_runners_in_processes_and_releases_the_database(method: Any, tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method=method)

    metadata = await asyncio.to_thread(strategy.execute, enqueue_and_wait, claim_and_report, sqlite_in(tmp_path))

    assert metadata["worker"] == 0
    assert metadata["pid"] != os.getpid()
    async with agl.SqliteLightningStore(tmp_path / "agl.db") as store:
        assert (await store.statistics())["rollouts"] == {"succeeded": 1}


async def enqueue_with_retry(store: agl.LightningStore) -> list[Any]:
    """Run as the algorithm: return the status and the metadata of each attempt."""
    config = agl.RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
    rollout = await store.enqueue_rollout("task", config=config)
    await store.wait_for_rollouts([rollout.rollout_id])
    return [(attempt.status, attempt.metadata) for attempt in await store.query_attempts(rollout.rollout_id)]


async def kill_the_first_process(store: agl.LightningStore, worker: int, stop: Any) -> None:
    """Run as a runner that its first attempt kills."""
    worker_id = f"{worker_id_prefix(os.getpid())}{worker}"
    while not stop.is_set():
        if claimed := await store.dequeue_rollout(worker_id=worker_id, wait=0.2):
            if claimed.attempt.sequence_id == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            await store.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded")


async def test_runner_killed_by_sigkill_is_replaced_and_the_run_completes(tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method="fork")

    attempts = await asyncio.to_thread(
        strategy.execute, enqueue_with_retry, kill_the_first_process, sqlite_in(tmp_path)
    )

    reason = "its runner's process was killed by SIGKILL (out of memory?)"
    assert attempts == [("unresponsive", {"reason": reason}), ("succeeded", None)]


async def fail(store: agl.LightningStore, worker: int, stop: Any) -> None:
    """Run as a runner that raises."""
    raise LookupError("the runner has a mistake")


def test_error_of_a_runner_in_a_fresh_process_is_raised_with_its_traceback(tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method="spawn")

    with pytest.raises(LookupError, match="the runner has a mistake") as raised:
        strategy.execute(enqueue_and_wait, fail, sqlite_in(tmp_path))

    assert f'File "{__file__}", line ' in str(raised.value.__cause__)


class _Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def __call__(self, store: agl.LightningStore, worker: int, stop: Any) -> None:
        with self.lock:
            await claim_and_report(store, worker, stop)


def test_agent_that_cannot_be_pickled_is_refused_with_advice(tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method="spawn")

    with pytest.raises(TypeError, match=r"cannot be pickled for a fresh process .*: create clients, locks and"):
        strategy.execute(enqueue_and_wait, _Unpicklable(), sqlite_in(tmp_path))


def test_agent_that_cannot_be_pickled_is_forked_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    with caplog.at_level(logging.WARNING):
        metadata = agl.ClientServerExecutionStrategy().execute(enqueue_and_wait, _Unpicklable(), sqlite_in(tmp_path))
    release.set()
    thread.join()

    assert metadata["pid"] != os.getpid()
    assert "runners are forked although this process has threads" in caplog.text


def test_defaults_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_CURRENT_ROLE", "runner")
    monkeypatch.setenv("AGL_SERVER_HOST", "machine-a")
    monkeypatch.setenv("AGL_SERVER_PORT", "5000")
    monkeypatch.setenv("AGL_MANAGED_STORE", "0")

    strategy = agl.ClientServerExecutionStrategy()
    explicit = agl.ClientServerExecutionStrategy("algorithm", "here", 6000, managed_store=True)

    assert (strategy.role, strategy.server_host, strategy.server_port) == ("runner", "machine-a", 5000)
    assert not strategy.managed_store
    assert (explicit.role, explicit.server_host, explicit.server_port, explicit.managed_store) == (
        "algorithm",
        "here",
        6000,
        True,
    )


@pytest.mark.parametrize(("name", "value"), [("AGL_CURRENT_ROLE", "boss"), ("AGL_SERVER_PORT", "high")])
def test_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidInput, match=name):
        agl.ClientServerExecutionStrategy()


def test_separate_roles_use_the_default_port_of_the_store():
    assert agl.ClientServerExecutionStrategy("runner").server_port == 4747
    assert agl.ClientServerExecutionStrategy("both").server_port == 0
