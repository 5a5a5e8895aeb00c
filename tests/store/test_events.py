"""`GET /events`: changes as server-sent events, without a missed change and without a delay of others."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.store.http.events import COALESCE_SECONDS, MAX_PENDING_EVENTS, ChangeFeed

from ..contract.making import soon
from ..faults.lossy import served


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def events(
    session: aiohttp.ClientSession, server: LightningStoreServer, last_id: str = ""
) -> AsyncIterator[tuple[str, Any]]:
    """Yield id and data of each event."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with session.get(f"{server.endpoint}/events", headers=headers) as response:
        event_id = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            if name == "data":
                yield event_id, json.loads(value)


def subscribe(session: aiohttp.ClientSession, server: LightningStoreServer, last_id: str = "") -> Any:
    return aclosing(events(session, server, last_id))  # type: ignore[type-var]


async def test_event_contains_the_changed_rollouts_and_resources(
    server: LightningStoreServer, session: aiohttp.ClientSession
) -> None:
    async with subscribe(session, server) as feed:
        assert (await anext(feed))[1] == {"everything": True, "read_only": False}

        await server.add_resources({"prompt": "Answer"})  # type: ignore[dict-item]
        rollout = await server.enqueue_rollout("task")
        changes: dict[str, Any] = {}
        while "rollouts" not in changes:
            changes |= {name: value for name, value in (await anext(feed))[1].items() if value}

    assert changes["resources"] is True
    assert changes["rollouts"][rollout.rollout_id]["status"] == "queuing"
    assert "input" not in changes["rollouts"][rollout.rollout_id]


async def test_events_name_rollouts_that_finished_and_spans(
    server: LightningStoreServer, session: aiohttp.ClientSession
) -> None:
    attempted = await server.start_rollout("task")
    async with subscribe(session, server) as feed:
        await anext(feed)
        await server.update_attempt(attempted.rollout_id, "latest", status="succeeded")
        changes = (await anext(feed))[1]

    assert changes["rollouts"][attempted.rollout_id]["status"] == "succeeded"


async def test_reconnected_client_receives_the_missed_events(
    server: LightningStoreServer, session: aiohttp.ClientSession
) -> None:
    async with subscribe(session, server) as other:
        await anext(other)
        async with subscribe(session, server) as feed:
            last_id, _ = await anext(feed)

        rollout = await server.enqueue_rollout("task")
        await anext(other)
        async with subscribe(session, server, last_id) as feed:
            _, changes = await anext(feed)

    assert list(changes["rollouts"]) == [rollout.rollout_id]


@pytest.mark.parametrize("last_id", ["", "otherepoch-3", "nonsense", "-"])
async def test_client_without_a_known_event_is_told_to_reload(
    server: LightningStoreServer, session: aiohttp.ClientSession, last_id: str
) -> None:
    async with subscribe(session, server, last_id) as feed:
        assert (await anext(feed))[1]["everything"] is True


async def test_many_changes_are_coalesced_into_few_events(
    server: LightningStoreServer, session: aiohttp.ClientSession
) -> None:
    async with subscribe(session, server) as feed:
        await anext(feed)
        started = time.monotonic()
        await asyncio.gather(*(server.enqueue_rollout(n) for n in range(500)))
        await anext(feed)
        last = await server.enqueue_rollout("the last")
        count = 1
        async for _, changes in feed:
            count += 1
            if last.rollout_id in changes["rollouts"] or changes["everything"]:
                break

    assert count <= 2 + (time.monotonic() - started) / COALESCE_SECONDS


async def test_slow_subscriber_is_told_to_reload_and_delays_no_other() -> None:
    async with InMemoryLightningStore() as store:
        feed = ChangeFeed(store)
        async with aclosing(feed.stream(None)) as slow:
            await anext(slow)
            for n in range(MAX_PENDING_EVENTS + 1):
                await store.enqueue_rollout(n)
                await feed.publish()

            assert b'"everything":true' in await anext(slow)
            [subscriber] = feed._subscribers
            assert subscriber.empty()


async def test_stopping_server_ends_its_streams(server: LightningStoreServer, session: aiohttp.ClientSession) -> None:
    async with subscribe(session, server) as feed:
        await anext(feed)
        stopping = asyncio.ensure_future(server.stop())
        assert [changes async for _, changes in feed] == []
        await soon(stopping)
