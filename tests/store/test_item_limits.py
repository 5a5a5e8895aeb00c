"""The limit on the length of the lists that one call passes to the store over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.http.limits import Limits
from agentlightning.payload import MAX_ITEMS
from agentlightning.store import InMemoryLightningStore, LightningStoreClient
from agentlightning.trainer.keyed_store import KeyedStore
from agentlightning.types import EnqueueRolloutRequest

from ..contract.making import claimed, span
from ..faults.lossy import served
from .raw import Raw

LISTS: dict[str, tuple[str, Any]] = {
    "enqueue_many_rollouts": ("rollouts", {"input": 1}),
    "add_many_spans": ("spans", {}),
    "get_many_span_sequence_ids": ("rollout_attempt_ids", ["ro-1", "at-1"]),
    "update_worker": ("attempts", {}),
}


@pytest.mark.parametrize("operation", LISTS)
async def test_longer_list_gets_413_that_names_the_limit(operation: str) -> None:
    name, item = LISTS[operation]
    async with served(InMemoryLightningStore(), limits=Limits(items=5)) as server, Raw(server.endpoint) as raw:
        answer = await raw.call(operation, {name: [item] * 6})

        assert (answer.status, "Limits.items" in answer.text, "split the list" in answer.text) == (413, True, True)
        assert (await raw.call(operation, {name: [item] * 5})).status != 413


async def test_lists_of_ids_can_be_longer() -> None:
    async with served(InMemoryLightningStore()) as server, LightningStoreClient(server.endpoint) as client:
        unknown = [f"ro-{number}" for number in range(MAX_ITEMS + 1)]

        assert (await client.query_rollouts(rollout_id_in=unknown)).items == []


async def test_client_splits_longer_lists_into_calls() -> None:
    async with served(InMemoryLightningStore()) as server, LightningStoreClient(server.endpoint) as client:
        attempted = await claimed(client)
        ids = [(attempted.rollout_id, attempted.attempt.attempt_id)] * (MAX_ITEMS + 2)
        assert await client.get_many_span_sequence_ids(ids) == list(range(1, MAX_ITEMS + 3))

        spans = [span(attempted, number) for number in range(1, MAX_ITEMS + 3)]
        assert [each.span_id for each in await client.add_many_spans(spans)] == [each.span_id for each in spans]


async def test_keyed_store_enqueues_more_rollouts_than_one_call_takes() -> None:
    async with served(InMemoryLightningStore()) as server, LightningStoreClient(server.endpoint) as client:
        requests = [EnqueueRolloutRequest(input=number) for number in range(2 * MAX_ITEMS + 1)]
        rollouts = await KeyedStore(client).enqueue_many_rollouts(requests)

        assert [rollout.input for rollout in rollouts] == list(range(2 * MAX_ITEMS + 1))
        assert sum((await client.statistics())["rollouts"].values()) == 2 * MAX_ITEMS + 1
