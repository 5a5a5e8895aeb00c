"""Several stores over one PostgreSQL database: one queue, one lease clock, shared notifications."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentlightning.errors import Conflict, StoreUnavailable
from agentlightning.store import (
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    PostgresLightningStore,
    open_store,
)
from agentlightning.store.sql import schema
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig

from ..contract.making import LONG_WAIT, RETRYING, claimed, ended, eventually, everything, soon, span
from ..postgres import empty_database, run, server
from ..timing import quickest


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with empty_database() as url:
        yield url


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[LightningStore, LightningStore]]:
    async with two_servers(url) as clients:
        yield clients


@asynccontextmanager
async def two_servers(url: str) -> AsyncIterator[tuple[LightningStore, LightningStore]]:
    """Two servers over one database, each with a client."""
    servers = [LightningStoreServer(PostgresLightningStore(url), port=0) for _ in range(2)]
    for each in servers:
        await each.start()
    async with LightningStoreClient(servers[0].endpoint) as here, LightningStoreClient(servers[1].endpoint) as there:
        yield here, there
    for each in servers:
        await each.close()


async def test_enqueue_at_one_server_wakes_a_claim_at_another(two: Any) -> None:
    here, there = two

    async def seconds_until_claimed() -> float:
        waiting = asyncio.create_task(there.dequeue_rollout(worker_id="far away", wait=LONG_WAIT))
        assert await there.dequeue_rollout() is None  # follows the first claim
        start = time.monotonic()
        rollout = await here.enqueue_rollout("task")
        assert (await soon(waiting)).rollout_id == rollout.rollout_id
        return time.monotonic() - start

    assert await quickest(seconds_until_claimed, 2) < 2


async def test_end_at_one_server_ends_a_wait_at_another(two: Any) -> None:
    here, there = two
    attempted = await claimed(here)
    waiting = asyncio.create_task(there.wait_for_rollouts([attempted.rollout_id]))
    assert await there.wait_for_rollouts([attempted.rollout_id], timeout=0.1) == []

    await here.update_attempt(attempted.rollout_id, "latest", status="succeeded")

    assert [rollout.status for rollout in await soon(waiting)] == ["succeeded"]


async def test_rollouts_of_two_servers_are_claimed_once_and_none_is_lost(two: Any) -> None:
    rollouts, runners = 200, 16
    enqueued = await two[0].enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(rollouts)])
    taken = Counter[str]()

    async def runner(store: LightningStore, number: int) -> None:
        while attempted := await store.dequeue_rollout(worker_id=f"runner-{number}"):
            taken[attempted.rollout_id] += 1
            await store.add_span(span(attempted))
            await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")

    await asyncio.gather(*(runner(two[number % 2], number) for number in range(runners)))
    await asyncio.gather(*(runner(two[number % 2], number) for number in range(2)))  # formerly locked rows

    print(f"{rollouts} rollouts, {runners} runners at 2 servers: {sum(taken.values()) - rollouts} claimed twice")
    assert taken == Counter(rollout.rollout_id for rollout in enqueued)
    assert (await two[1].statistics())["rollouts"] == {"succeeded": rollouts}


async def test_concurrent_reports_at_two_servers_count_once(two: Any) -> None:
    tries, won = 20, 0
    for _ in range(tries):
        attempted = await claimed(two[0])
        reports = [
            store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
            for store, status in zip(two, ("succeeded", "failed"), strict=True)
        ]
        answers = await asyncio.gather(*reports, return_exceptions=True)
        won += sum(not isinstance(answer, BaseException) for answer in answers)
        assert sum(isinstance(answer, Conflict) for answer in answers) == 1

    assert won == tries


async def test_repeated_request_at_another_server_happens_once(url: str) -> None:
    async with PostgresLightningStore(url) as here, PostgresLightningStore(url) as there:
        attempted = await claimed(here)
        spans = [span(attempted, n) for n in range(1, 40)]

        stored = await asyncio.gather(*(store.add_many_spans(spans) for store in (here, there, here, there)))

        assert sorted(len(each) for each in stored) == [0, 0, 0, 39]
        assert [each.sequence_id for each in await here.query_spans(attempted.rollout_id)] == list(range(1, 40))


async def test_deadline_survives_its_server(url: str) -> None:
    config = RolloutConfig(timeout_seconds=0.5)
    async with PostgresLightningStore(url) as there:
        async with PostgresLightningStore(url) as here:
            attempted = await claimed(here, config=config)

        (rollout,) = await soon(there.wait_for_rollouts([attempted.rollout_id]))

        assert rollout.status == "failed"


async def test_servers_agree_on_lease_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with PostgresLightningStore(url) as here:
        attempted = await claimed(here, config=RolloutConfig(unresponsive_seconds=20, **_RETRYING))
        monkeypatch.setattr(time, "time", lambda: time.monotonic() + 90 * 86_400)
        async with PostgresLightningStore(url) as there:
            assert abs(there._clock.lease() - here._clock.lease()) < 1.5
            assert await there.expire_overdue() == 0
            assert (await there.get_rollout_by_id(attempted.rollout_id)).status == "preparing"


async def test_lease_time_stops_while_no_server_runs(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        reached = store._clock.lease()
    async with PostgresLightningStore(url) as store:
        assert store._clock.lease() < reached + 5


async def test_store_reconnects_after_broken_connections() -> None:
    """Uses its own database, to which no other test is connected."""
    name = f"reconnect_{os.getpid()}"
    await run(server(), f"CREATE DATABASE {name}")
    url = server().replace("/postgres?", f"/{name}?")
    async with two_servers(url) as (here, there):
        await reconnect(here, there, url)
    await run(server(), f"DROP DATABASE {name} WITH (FORCE)")


async def reconnect(here: LightningStore, there: LightningStore, url: str) -> None:
    waiting = asyncio.create_task(there.dequeue_rollout(wait=LONG_WAIT))
    attempted = await here.start_rollout("task", config=RETRYING)

    mine = "datname = current_database() AND application_name LIKE 'agent%'"
    cut = await run(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    assert len(cut) >= 4

    await here.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    rollout = await here.enqueue_rollout("task")
    assert (await soon(waiting)).rollout_id == rollout.rollout_id
    await eventually(there, attempted, lambda now: now.status == "succeeded")


async def test_database_of_a_newer_release_is_rejected(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        await ended(store)
        before = await everything(store)
    await run(url, "UPDATE schema_version SET version = 99")

    with pytest.raises(StoreUnavailable, match="written by a newer release"):
        PostgresLightningStore(url)

    await run(url, f"UPDATE schema_version SET version = {len(schema.STEPS)}")
    async with PostgresLightningStore(url) as store:
        assert await everything(store) == before


async def test_concurrently_started_servers_create_the_tables_once(url: str) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(PostgresLightningStore, url) for _ in range(4)))

    await stores[0].enqueue_rollout("task")
    assert [(await store.statistics())["queue_depth"] for store in stores] == [1] * 4
    for store in stores:
        await store.close()


@pytest.mark.parametrize("url", ["postgresql://localhost:1/nowhere", "postgresql:///x?host=/nowhere"])
async def test_unreachable_database_raises_a_short_error(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="cannot open"):
        open_store(url)


_RETRYING: dict[str, Any] = {"max_attempts": 2, "retry_condition": ["unresponsive"]}
