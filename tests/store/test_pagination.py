"""Pagination over HTTP: the server returns pages, and the client joins them into whole lists."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlightning.http.limits import Limits
from agentlightning.store import InMemoryLightningStore, LightningStoreClient

from ..contract.making import span
from ..faults.lossy import served
from .raw import Raw

ROLLOUTS = 11


@pytest.fixture
async def server() -> AsyncIterator[Any]:
    async with served(InMemoryLightningStore(), limits=Limits(page=3, depth=10)) as server:
        for number in range(ROLLOUTS):
            await server.enqueue_rollout(number)
        yield server


@pytest.mark.parametrize("arguments", [{}, {"limit": -1}, {"limit": 1_000}], ids=str)
async def test_request_gets_one_page_and_the_total(server: Any, arguments: dict[str, int]) -> None:
    async with Raw(server.endpoint) as raw:
        page = (await raw.call("query_rollouts", {**arguments, "offset": 9})).json

    assert ([each["input"] for each in page["items"]], page["limit"], page["offset"]) == ([9, 10], 3, 9)
    assert page["total"] == ROLLOUTS


async def test_client_returns_the_same_list_as_the_store(server: Any) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        for limit, offset in [(-1, 0), (-1, 4), (7, 2), (3, 0), (2, 1), (0, 0), (100, 10), (-1, 50)]:
            arguments: Any = {"limit": limit, "offset": offset, "sort_by": "start_time", "sort_order": "desc"}
            remote, local = await client.query_rollouts(**arguments), await server.query_rollouts(**arguments)

            assert remote == local
            assert len(remote) == len(
                range(ROLLOUTS)[offset:] if limit < 0 else range(ROLLOUTS)[offset : offset + limit]
            )


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_list_that_changes_between_pages_contains_every_remaining_item_once(
    server: Any, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = server.store
    for number in range(6):
        over = await store.start_rollout("deleted later")
        await store.update_attempt(over.rollout_id, "latest", status="failed")
        await store.enqueue_rollout(ROLLOUTS + number)
    requests = 0

    async with LightningStoreClient(server.endpoint) as client:
        execute = client._execute

        async def change_after_each_page(*arguments: Any) -> Any:
            nonlocal requests
            answer = await execute(*arguments)
            requests += 1
            await store.enqueue_rollout("new")
            await store.delete_ended_before(time.time() + 60, 1)
            return answer

        monkeypatch.setattr(client, "_execute", change_after_each_page)
        rollouts = await client.query_rollouts(sort_by="start_time", sort_order=order)

    assert requests >= 6
    inputs = [rollout.input for rollout in rollouts if isinstance(rollout.input, int)]
    assert inputs == sorted(range(ROLLOUTS + 6), reverse=order == "desc")
    assert len({rollout.rollout_id for rollout in rollouts}) == len(rollouts)


async def test_client_returns_complete_lists_of_every_kind(server: Any) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        attempted = await client.start_rollout("task")
        await client.add_many_spans([span(attempted, n) for n in range(1, 9)])
        for number in range(8):
            await client.update_resources("rs", {"prompt": f"{number}"})  # pyright: ignore[reportArgumentType]
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


async def test_json_deeper_than_the_limit_is_rejected(server: Any) -> None:
    async with Raw(server.endpoint) as raw:
        assert (await raw.send("POST", "/enqueue_rollout", nested(9))).status == 200
        answer = await raw.send("POST", "/enqueue_rollout", nested(12))

    assert (answer.status, "10 levels" in answer.text) == (422, True)


def nested(levels: int) -> bytes:
    return b'{"input": ' + b"[" * levels + b"]" * levels + b"}"
