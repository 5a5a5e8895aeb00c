"""Rewards of rollouts, and the summary of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentlightning.adapter import find_final_reward
from agentlightning.store import LightningStore
from agentlightning.types import Config

from .making import RETRYING, claimed, ended, found, span

SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": (
        "agentlightning.annotation",
        {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5},
    ),
    "the reward span": ("agentlightning.reward", {"reward": 0.5}),
    "an annotation": ("agentlightning.annotation", {"reward": 0.5}),
    "the tutorial's": ("reward", {"value": 0.5}),
    "AgentOps' task": ("task", {"agentops.task.output": json.dumps({"type": "reward", "value": 0.5})}),
    "AgentOps' entity": ("entity", {"agentops.entity.output": json.dumps({"type": "reward", "value": 0.5})}),
}


def reward(of: Any, value: float, n: int = 1) -> Any:
    return span(of, n, "agentlightning.annotation", attributes={"agentlightning.reward.0.value": value})


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_reward_is_found_in_every_format(store: LightningStore, spelling: str) -> None:
    attempted = await claimed(store)
    name, attributes = SPELLINGS[spelling]
    assert (await found(store, attempted)).reward is None

    await store.add_span(span(attempted, name=name, attributes=attributes))

    assert (await found(store, attempted)).reward == 0.5
    assert [rollout.reward for rollout in await store.query_rollouts()] == [0.5]


async def test_last_span_with_a_reward_decides(store: LightningStore) -> None:
    attempted = await claimed(store)

    await store.add_many_spans([reward(attempted, 0.1, 1), reward(attempted, 0.0, 2), span(attempted, 3)])
    assert (await found(store, attempted)).reward == 0.0

    await store.add_span(reward(attempted, 1, 4))
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    (waited,) = await store.wait_for_rollouts([attempted.rollout_id])
    assert waited.reward == 1.0


async def test_primary_reward_of_several_decides(store: LightningStore) -> None:
    attempted = await claimed(store)
    several = {
        "agentlightning.reward.0.name": "correct",
        "agentlightning.reward.0.value": 1.0,
        "agentlightning.reward.1.name": "brief",
        "agentlightning.reward.1.value": 0.25,
    }

    await store.add_span(span(attempted, name="agentlightning.annotation", attributes=several))

    assert (await found(store, attempted)).reward == 1.0


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("step", {"value": 0.5}), ("reward", {"value": "good"}), ("reward", {}), ("reward", {"value": None}),
     ("task", {"agentops.task.output": "not json"}), ("task", {"agentops.task.output": "[1]"}),
     ("task", {"agentops.task.output": '{"type": "reward", "value": null}'}),
     ("task", {"agentops.task.output": 5}), ("agentlightning.annotation", {"agentlightning.reward.0.value": [1]})],
    ids=str,
)  # fmt: skip
async def test_spans_without_a_valid_reward_set_none(
    store: LightningStore, name: str, attributes: dict[str, Any]
) -> None:
    attempted = await claimed(store)

    assert await store.add_span(span(attempted, name=name, attributes=attributes)) is not None

    assert (await found(store, attempted)).reward is None


async def test_reward_of_the_latest_attempt_decides(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.add_span(reward(first, 0.9))
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    second = await store.dequeue_rollout()
    assert second is not None

    await store.add_span(reward(second, 0.2))
    await store.add_span(reward(first, 0.8, 7))

    assert (await found(store, first)).reward == 0.2


async def test_rollouts_sort_by_reward_with_none_last(store: LightningStore) -> None:
    for value in (0.5, None, 1.0, 0.0):
        attempted = await claimed(store, value)
        if value is not None:
            await store.add_span(reward(attempted, value))

    assert [rollout.input for rollout in await store.query_rollouts(sort_by="reward")] == [0.0, 0.5, 1.0, None]
    backwards = await store.query_rollouts(sort_by="reward", sort_order="desc")
    assert [rollout.input for rollout in backwards] == [1.0, 0.5, 0.0, None]


@pytest.mark.parametrize("status", ["succeeded", "failed", "timeout", "cancelled", "unresponsive"])
async def test_reward_that_arrives_after_the_end_changes_nothing(store: LightningStore, status: Any) -> None:
    attempted = await claimed(store)
    await store.add_span(reward(attempted, 0.5))
    if status == "cancelled":
        await store.update_rollout(attempted.rollout_id, status=status)
    else:
        await store.update_attempt(attempted.rollout_id, "latest", status=status)
    before, summary = await found(store, attempted), await store.summary()

    late = await store.add_span(reward(attempted, 1e9, 2))

    assert late is not None
    assert late.attributes["agentlightning.late"] is True
    assert await found(store, attempted) == before
    assert before.reward == 0.5
    assert {**await store.summary(), "time": 0} == {**summary, "time": 0}
    assert find_final_reward((await store.query_spans(attempted.rollout_id)).items) == 0.5


async def test_late_reward_does_not_become_the_first_one(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")

    await store.add_many_spans([reward(attempted, 1.0, 1), span(attempted, 2, "reward", attributes={"value": 1.0})])

    assert (await found(store, attempted)).reward is None
    assert find_final_reward((await store.query_spans(attempted.rollout_id)).items) is None


# Summary


async def test_summary_of_an_empty_store_is_empty(store: LightningStore) -> None:
    summary = await store.summary()

    assert summary == {
        "time": summary["time"],
        "rollouts": {},
        "workers": {},
        "ended_per_minute": None,
        "seconds_left": None,
        "ended_per_minute_by_worker": {},
        "steps": [],
        "versions": [],
        "errors": [],
    }


async def test_summary_has_the_mean_reward_of_every_version(store: LightningStore) -> None:
    for version, values in [(1, [0.0, 1.0]), (2, [0.5, 0.5, 0.5])]:
        await store.update_resources("rs-mine", {"n": Config(value=version)})
        for value in values:
            attempted = await claimed(store, mode="val")
            await store.add_span(reward(attempted, value))
            await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")

    summary = await store.summary()

    assert summary["rollouts"] == {"succeeded": 5}
    assert [(each["resources_id"], each["version"], each["mode"], each["count"], each["mean"], each["deviation"])
            for each in summary["versions"]] == [
        ("rs-mine", 1, "val", 2, 0.5, pytest.approx(0.5, abs=0.21)),
        ("rs-mine", 2, "val", 3, 0.5, pytest.approx(0.0)),
    ]  # fmt: skip
    assert sum(step["count"] for step in summary["steps"]) == 5
    assert {step["mode"] for step in summary["steps"]} == {"val"}
    assert summary["steps"][-1]["rollout"] >= 5


async def test_summary_groups_similar_errors(store: LightningStore) -> None:
    for reason in ("it broke", "it broke", "something else"):
        attempted = await claimed(store, reason)
        await store.update_attempt(attempted.rollout_id, "latest", status="failed", metadata={"reason": reason})
    await ended(store, "succeeded")
    newest = (await store.query_rollouts())[1].rollout_id

    summary = await store.summary()

    assert [(each["message"], each["count"]) for each in summary["errors"]] == [("it broke", 2), ("something else", 1)]
    assert summary["errors"][0]["rollout_id"] == newest
    assert summary["rollouts"] == {"failed": 3, "succeeded": 1}
