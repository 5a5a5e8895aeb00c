"""The counters of `GET /metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import NotFound
from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.types import RolloutConfig

from ..contract.conftest import WAYS
from ..contract.making import claimed, ended, eventually, soon, span
from ..faults.lossy import served
from .raw import Raw
from .stalled_writer import run_loop_iterations, stalled_writer


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


async def metrics(server: LightningStoreServer) -> list[str]:
    async with Raw(server.endpoint) as raw:
        return (await raw.send("GET", "/metrics")).text.splitlines()


async def test_rejections_and_duplicates_are_counted(server: LightningStoreServer) -> None:
    store: Any = server.store
    done = await ended(store)
    with suppress(Exception):
        await store.update_attempt(done.rollout_id, "latest", status="failed")
    running = await claimed(store)
    for _ in range(3):
        await store.add_span(span(running))
    async with Raw(server.endpoint) as raw:
        await raw.send("GET", "/nowhere/at/all")

    assert {
        "agl_stale_reports_total 1",
        "agl_duplicate_spans_total 2",
        "agl_lost_runners_total 0",
        'agl_rollouts{status="succeeded"} 1',
        "agl_spans 1",
        'agl_requests_total{operation="other",status="404"} 1',
    } <= set(await metrics(server))


async def test_lost_runners_timeouts_and_their_consequences_are_counted(server: LightningStoreServer) -> None:
    store: Any = server.store
    retry = {"max_attempts": 2, "retry_condition": ["unresponsive"]}
    lost = await claimed(store, config=RolloutConfig(unresponsive_seconds=0.1, **retry))
    late = await claimed(store, config=RolloutConfig(timeout_seconds=0.1))
    await soon(store.wait_for_rollouts([late.rollout_id]))
    await eventually(store, lost, lambda now: now.status == "requeuing")
    await store.update_rollout(lost.rollout_id, config=RolloutConfig(**retry))
    assert (await soon(store.dequeue_rollout())).rollout_id == lost.rollout_id
    await store.add_many_spans([span(late, 1), span(late, 2)])

    assert {
        "agl_lost_runners_total 1",
        "agl_timeouts_total 1",
        "agl_requeues_total 1",
        "agl_incomplete_traces_total 2",
        "agl_late_spans_total 2",
        'agl_rollouts{status="preparing"} 1',
    } <= set(await metrics(server))


@pytest.mark.parametrize("way", ["memory", "postgres"])
async def test_calls_repeated_because_of_a_failed_one_in_their_group_count_once(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        counting: Any = store
        running: Any = await claimed(store)
        over: Any = await ended(store)
        await store.add_span(span(running, 1))
        unknown = span(running, 3).model_copy(update={"attempt_id": "at-unknown"})
        before = counting.counters.copy()
        async with stalled_writer(store):
            calls = [
                store.add_many_spans([span(running, 1)]),
                store.add_many_spans([span(over, 1)]),
                store.add_many_spans([span(running, 2), unknown]),  # fails after it has changed something
            ]
            results = [asyncio.ensure_future(call) for call in calls]
            await run_loop_iterations()
        await soon(asyncio.wait(results))

        assert [type(result.exception()) for result in results] == [type(None), type(None), NotFound]
        assert counting.counters - before == {"duplicate_spans": 1, "late_spans": 1}
