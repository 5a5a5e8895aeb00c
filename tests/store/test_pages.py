"""Lists over HTTP come in pages; who asks for all of it gets all of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agentlightning.http.limits import Limits
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer

from ..contract.making import span
from .raw import Raw

ROLLOUTS = 11


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0, limits=Limits(page=3, depth=10))
    await server.start()
    for number in range(ROLLOUTS):
        await server.enqueue_rollout(number)
    yield server
    await server.close()


@pytest.mark.parametrize("asked", [{}, {"limit": -1}, {"limit": 1_000}], ids=str)
async def test_a_stranger_gets_a_page_and_how_many_there_are(server: Any, asked: dict[str, int]) -> None:
    async with Raw(server.endpoint) as raw:
        page = (await raw.call("query_rollouts", {**asked, "offset": 9})).json

    assert ([each["input"] for each in page["items"]], page["limit"], page["offset"]) == ([9, 10], 3, 9)
    assert page["total"] == ROLLOUTS


@pytest.mark.parametrize(("limit", "offset"), [(-1, 0), (-1, 4), (7, 2), (3, 0), (2, 1), (0, 0), (100, 10), (-1, 50)])
async def test_a_client_gets_what_it_asked_for_as_one(server: Any, limit: int, offset: int) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        far = await client.query_rollouts(limit=limit, offset=offset, sort_by="start_time", sort_order="desc")
        near = await server.query_rollouts(limit=limit, offset=offset, sort_by="start_time", sort_order="desc")

    assert far == near
    assert len(far) == len(range(ROLLOUTS)[offset:] if limit < 0 else range(ROLLOUTS)[offset : offset + limit])


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_list_that_changes_while_it_is_read_holds_what_was_there_all_the_time_once(
    server: Any, order: Any
) -> None:
    store = server.store
    for number in range(6):
        over = await store.start_rollout("goes")
        await store.update_attempt(over.rollout_id, "latest", status="failed")
        await store.enqueue_rollout(ROLLOUTS + number)

    async def change() -> None:
        await store.enqueue_rollout("new")
        await store.delete_ended_before(time.time() + 60, 1)

    async with Watched(server.endpoint, change) as client:
        listed = await client.query_rollouts(sort_by="start_time", sort_order=order)

    assert client.asked >= 6
    there = [rollout.input for rollout in listed if isinstance(rollout.input, int)]
    assert there == sorted(range(ROLLOUTS + 6), reverse=order == "desc")
    assert len({rollout.rollout_id for rollout in listed}) == len(listed)


class Watched(LightningStoreClient):
    """A client that lets something happen after each of its requests."""

    def __init__(self, url: str, between: Callable[[], Awaitable[None]]) -> None:
        super().__init__(url)
        self._between = between
        self.asked = 0

    async def _ask(self, operation: Any, arguments: Any) -> Any:
        answer = await super()._ask(operation, arguments)
        self.asked += 1
        await self._between()
        return answer


async def test_every_list_comes_whole(server: Any) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        attempted = await client.start_rollout("task")
        await client.add_many_spans([span(attempted, n) for n in range(1, 9)])
        for number in range(8):
            await client.update_resources("rs", {"prompt": f"{number}"})
            await client.update_worker(f"worker-{number}")
            if number:
                await client.start_attempt(attempted.rollout_id)
        lists = [
            await client.query_spans(attempted.rollout_id, attempted.attempt.attempt_id),
            await client.query_resources(),
            await client.query_workers(worker_id_contains="worker-"),
            await client.query_attempts(attempted.rollout_id),
        ]

    assert [len(each) for each in lists] == [8] * 4
    assert [each.sequence_id for each in lists[0]] == [*range(1, 9)]


async def test_json_may_be_no_deeper_than_the_limit_given(server: Any) -> None:
    async with Raw(server.endpoint) as raw:
        assert (await raw.send("POST", "/enqueue_rollout", _deep(9))).status == 200
        answer = await raw.send("POST", "/enqueue_rollout", _deep(12))

    assert (answer.status, "10 levels" in answer.text) == (422, True)


def _deep(levels: int) -> bytes:
    return b'{"input": ' + b"[" * levels + b"]" * levels + b"}"
