"""Calls that name tens of thousands of ids, which is more than SQLite's limit on the variables of a statement."""

from __future__ import annotations

from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.types import EnqueueRolloutRequest

from .making import claimed, ended, span

MANY = 33_000
UNKNOWN = [f"ro-unknown-{number}" for number in range(MANY)]


async def test_rollouts_can_be_queried_by_any_number_of_ids(store: LightningStore) -> None:
    rollouts = [await store.enqueue_rollout(number) for number in range(3)]
    wanted = [*UNKNOWN, rollouts[2].rollout_id, rollouts[0].rollout_id, "", "é😀"]

    found = await store.query_rollouts(rollout_id_in=wanted)

    assert [each.rollout_id for each in found] == [rollouts[0].rollout_id, rollouts[2].rollout_id]
    assert (await store.query_rollouts(rollout_id_in=UNKNOWN)).items == []


async def test_id_cut_off_at_a_nul_character_is_not_found() -> None:
    async with InMemoryLightningStore() as store:
        rollout = await store.enqueue_rollout("task")

        assert (await store.query_rollouts(rollout_id_in=[*UNKNOWN, f"{rollout.rollout_id}\x00"])).items == []


async def test_any_number_of_rollouts_can_be_awaited(store: LightningStore) -> None:
    last = await ended(store)
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=number) for number in range(2_000)])
    ids = [*(rollout.rollout_id for rollout in rollouts), last.rollout_id]
    assert [each.rollout_id for each in await store.wait_for_rollouts(ids, timeout=0.0)] == [last.rollout_id]


async def test_any_number_of_spans_can_be_added_and_repeated(store: LightningStore) -> None:
    attempted = await claimed(store)
    spans = [span(attempted, number) for number in range(1, MANY + 1)]

    assert len(await store.add_many_spans(spans[:2])) == 2
    assert len(await store.add_many_spans(spans)) == MANY - 2
