"""Durability: acknowledged changes survive a restart of the store and a kill at any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import StoreInUse
from agentlightning.store import LightningStoreClient, SqliteLightningStore
from agentlightning.types import Config, RolloutConfig

from ..conftest import Figure
from ..contract.making import LONG_WAIT, RETRYING, claimed, ended, everything, soon, span
from ..faults.kill_store import kill_store_repeatedly
from ..faults.store_process import StoreProcess


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agl.db"


async def test_reopened_store_has_the_same_contents(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.update_resources("rs-mine", {"config": Config(value={"deep": [1, "😀"]})})
        await ended(store, "succeeded", {"question": "why?"}, worker_id="worker-1")
        running = await claimed(store, "running", worker_id="worker-2", config=RETRYING, metadata={"k": 1})
        await store.add_many_spans([span(running, n, attributes={"n": n}) for n in range(5)])
        await store.enqueue_rollout("queued", "val")
        before = await everything(store)

    async with SqliteLightningStore(path) as store:
        assert await everything(store) == before


async def test_reopened_store_continues_its_counters(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.update_resources("rs-mine", {})
        attempted = await claimed(store, config=RETRYING)
        await store.add_many_spans([span(attempted, n) for n in (1, 2)])
        queued = [await store.enqueue_rollout(n) for n in range(3)]

    async with SqliteLightningStore(path) as store:
        third = await store.add_span(span(attempted, 3))
        again = await store.add_span(span(attempted, 1))
        update = await store.update_resources("rs-mine", {})
        queued.append(await store.enqueue_rollout("last"))
        order = [each.rollout_id for each in await store.dequeue_many_rollouts(limit=9)]
        second = await store.start_attempt(attempted.rollout_id)

    assert third is not None
    assert (third.sequence_id, again, update.version, second.attempt.sequence_id) == (3, None, 2, 2)
    assert order == [each.rollout_id for each in queued]


async def test_reopened_store_keeps_deadlines(path: Path) -> None:
    config = RolloutConfig(timeout_seconds=0.5, max_attempts=2, retry_condition=["timeout"])
    async with SqliteLightningStore(path) as store:
        attempted = await claimed(store, config=config)

    async with SqliteLightningStore(path) as store:
        again = await soon(store.dequeue_rollout(wait=LONG_WAIT))
        assert (again.rollout_id, again.attempt.sequence_id) == (attempted.rollout_id, 2)
        first, _ = await store.query_attempts(attempted.rollout_id)
        assert first.status == "timeout"


async def test_two_stores_cannot_open_one_file(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with pytest.raises(StoreInUse):
            async with SqliteLightningStore(path) as other:
                await other.statistics()
        rollout = await store.enqueue_rollout("still served")

    async with SqliteLightningStore(path) as store:
        assert (await store.query_rollouts()).items == [rollout]


async def test_file_of_another_process_can_be_opened_after_its_end(path: Path) -> None:
    async with StoreProcess(path) as process:
        async with LightningStoreClient(process.endpoint) as client:
            rollout = await client.enqueue_rollout("task")
        with pytest.raises(StoreInUse):
            async with SqliteLightningStore(path) as store:
                await store.statistics()
        process.kill()
        await process.wait_until_killed()

    async with SqliteLightningStore(path) as store:
        assert (await store.query_rollouts()).items == [rollout]


async def test_waits_continue_across_a_restart_of_the_store(path: Path) -> None:
    async with StoreProcess(path) as process, LightningStoreClient(process.endpoint) as client:
        attempted = await claimed(client, config=RolloutConfig(unresponsive_seconds=600))
        waiting = asyncio.create_task(client.wait_for_rollouts([attempted.rollout_id]))
        claiming = asyncio.create_task(client.dequeue_rollout(wait=LONG_WAIT))
        assert await client.wait_for_rollouts([attempted.rollout_id], timeout=0.1) == []

        process.kill()
        await process.wait_until_killed()
        await process.start()
        stored = await client.add_span(span(attempted))
        await client.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")
        expected = await client.enqueue_rollout("task")

        waited: list[Any] = await soon(waiting)
        assert [(rollout.rollout_id, rollout.status) for rollout in waited] == [(attempted.rollout_id, "succeeded")]
        assert (await client.query_spans(attempted.rollout_id)).items == [stored]
        assert (await soon(claiming)).rollout_id == expected.rollout_id


@pytest.mark.slow
async def test_acknowledged_changes_survive_kill_9(path: Path, figure: Figure) -> None:
    result = await kill_store_repeatedly(path, cycles=50, seed=1)

    figure(result)
    assert result.wrong == []
    assert set(result.acknowledged) == {"enqueue", "claim", "spans", "finish", "resources"}
    assert result.slowest_reopening_in_ms < 2_000


async def test_kills_detect_a_store_that_acknowledges_before_the_commit(path: Path, figure: Figure) -> None:
    """Shows that the test above detects this fault."""
    result = await kill_store_repeatedly(path, cycles=25, seed=1, acknowledge_early=True)

    figure(f"seeded bug, answers before it commits: {result}")
    assert result.wrong
