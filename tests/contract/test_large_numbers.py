"""Numbers that clients choose cannot make a later operation fail, however large they are."""

from __future__ import annotations

import math

import pytest

from agentlightning import semconv
from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore
from agentlightning.store.encoded_span import MAX_SEQUENCE_ID

from .making import claimed, span


async def test_largest_sequence_ids_of_many_attempts_can_be_queried(store: LightningStore) -> None:
    attempted = await claimed(store)
    rollout_id = attempted.rollout_id
    for number in range(3):
        attempted = await store.start_attempt(rollout_id)
        await store.add_span(span(attempted, number + 1, sequence_id=MAX_SEQUENCE_ID))

    assert await store.get_next_span_sequence_id(rollout_id, attempted.attempt.attempt_id) == MAX_SEQUENCE_ID + 1
    found = await store.query_spans(rollout_id)
    assert [each.sequence_id for each in found] == [MAX_SEQUENCE_ID] * 3
    with pytest.raises(InvalidInput, match="2\\*\\*53"):
        await store.add_span(span(attempted, sequence_id=MAX_SEQUENCE_ID + 1))


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 5e-324])
async def test_extreme_rewards_do_not_break_the_summary(store: LightningStore, value: float) -> None:
    for _ in range(4):
        attempted = await claimed(store)
        reward = {f"{semconv.REWARDS}.0.value": value}
        await store.add_span(span(attempted, name=semconv.ANNOTATION, attributes=reward))
        await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")

    [step] = (await store.summary())["steps"]
    assert (step["count"], math.isfinite(step["mean"]), step["deviation"]) == (4, True, 0.0)
    assert (await store.query_rollouts()).total == 4
