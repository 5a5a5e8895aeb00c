"""Execution strategies with two plain callables: they know nothing of agents or algorithms."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import InvalidInput


async def put_one_and_wait(store: agl.LightningStore) -> dict[str, Any]:
    """The algorithm's side."""
    rollout = await store.enqueue_rollout("task")
    [ended] = await store.wait_for_rollouts([rollout.rollout_id])
    return ended.attempt.metadata


async def take_one(store: agl.LightningStore, worker: int, stop: Any) -> None:
    """The runner's side."""
    while not stop.is_set():
        if claimed := await store.dequeue_rollout(wait=0.2):
            said = {"worker": worker, "pid": os.getpid()}
            await store.update_attempt(
                claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded", metadata=said
            )


def in_file(folder: Path) -> Any:
    return lambda: agl.SqliteLightningStore(folder / "agl.db")


def test_in_threads_both_sides_are_in_this_process(tmp_path: Path):
    said = agl.SharedMemoryExecutionStrategy().execute(put_one_and_wait, take_one, in_file(tmp_path))

    assert said == {"worker": 0, "pid": os.getpid()}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_processes_runners_have_their_own(method: Any, tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method=method)

    said = strategy.execute(put_one_and_wait, take_one, in_file(tmp_path))

    assert said["worker"] == 0
    assert said["pid"] != os.getpid()


async def test_the_database_and_the_port_are_free_afterwards(tmp_path: Path):
    import asyncio

    strategy = agl.ClientServerExecutionStrategy(start_method="fork")
    await asyncio.to_thread(strategy.execute, put_one_and_wait, take_one, in_file(tmp_path))

    async with agl.SqliteLightningStore(tmp_path / "agl.db") as store:
        assert (await store.statistics())["rollouts"] == {"succeeded": 1}


class _Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def __call__(self, store: agl.LightningStore, worker: int, stop: Any) -> None:
        with self.lock:
            await take_one(store, worker, stop)


def test_what_cannot_be_sent_to_a_fresh_process_is_refused_with_advice(tmp_path: Path):
    strategy = agl.ClientServerExecutionStrategy(start_method="spawn")

    with pytest.raises(TypeError, match=r"cannot be sent to a fresh process .*: create clients, locks and the like"):
        strategy.execute(put_one_and_wait, _Unpicklable(), in_file(tmp_path))


def test_what_cannot_be_sent_is_forked_all_the_same_where_nothing_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    with caplog.at_level(logging.WARNING):
        said = agl.ClientServerExecutionStrategy().execute(put_one_and_wait, _Unpicklable(), in_file(tmp_path))
    go_on.set()
    thread.join()

    assert said["pid"] != os.getpid()
    assert "runners are forked although this process has threads" in caplog.text


def test_what_is_not_said_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_CURRENT_ROLE", "runner")
    monkeypatch.setenv("AGL_SERVER_HOST", "machine-a")
    monkeypatch.setenv("AGL_SERVER_PORT", "5000")
    monkeypatch.setenv("AGL_MANAGED_STORE", "0")

    strategy = agl.ClientServerExecutionStrategy()
    said = agl.ClientServerExecutionStrategy("algorithm", "here", 6000, managed_store=True)

    assert (strategy.role, strategy.server_host, strategy.server_port) == ("runner", "machine-a", 5000)
    assert not strategy.managed_store
    assert (said.role, said.server_host, said.server_port, said.managed_store) == ("algorithm", "here", 6000, True)


@pytest.mark.parametrize(("name", "value"), [("AGL_CURRENT_ROLE", "boss"), ("AGL_SERVER_PORT", "high")])
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidInput, match=name):
        agl.ClientServerExecutionStrategy()


def test_apart_both_sides_meet_at_the_stores_usual_port():
    assert agl.ClientServerExecutionStrategy("runner").server_port == 4747
    assert agl.ClientServerExecutionStrategy("both").server_port == 0
