"""Invalid input is rejected with the field, and accepted input can always be listed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore
from agentlightning.types import Config, EnqueueRolloutRequest, RolloutConfig

from .making import claimed, everything, found, soon, span

# Arguments are validated before a database is involved: by the store in this process, and by its server.
pytestmark = pytest.mark.ways("file", "http")


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


UNREPRESENTABLE: dict[str, Any] = {
    "nan": math.nan,
    "infinity": -math.inf,
    "nan inside": {"a": [1, {"b": math.nan}]},
    "surrogate": "ok \ud800",
    "surrogate inside": {"a": ["\udfff"]},
    "surrogate key": {"\udfff": 1},
    "deep": nested(65),
    "very deep": nested(500),
    "large integer": {"n": 2**64},
    "small integer": [-(2**63) - 1],
    "object": object(),
    "key": {1: "one"},
}

BAD_IDS = ["x" * 10_000, "line\nbreak", "nul\x00", "escape\x1b[2J", "\x7f", "\ud800"]


async def rejected(call: Awaitable[Any], *fields: str) -> None:
    """Check that `call` raises `InvalidInput` for one of `fields`."""
    with pytest.raises(InvalidInput) as caught:
        await call

    assert any(field in f"{caught.value.field} {caught.value}" for field in fields), caught.value
    assert "Traceback" not in str(caught.value)


Put = Callable[[LightningStore, Any, Any], Awaitable[Any]]

PARAMETERS: dict[str, tuple[str, Put]] = {
    # operation, field of the error, call
    "enqueue_rollout input": ("input", lambda store, _, bad: store.enqueue_rollout(bad)),
    "enqueue_rollout metadata": ("metadata", lambda store, _, bad: store.enqueue_rollout(1, metadata={"k": bad})),
    "start_rollout input": ("input", lambda store, _, bad: store.start_rollout(bad)),
    "start_rollout metadata": ("metadata", lambda store, _, bad: store.start_rollout(1, metadata={"k": bad})),
    "enqueue_many_rollouts": (
        "input",
        lambda store, _, bad: store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input="good"), EnqueueRolloutRequest(input=bad)]
        ),
    ),
    "update_rollout input": ("input", lambda store, it, bad: store.update_rollout(it.rollout_id, input=bad)),
    "update_rollout metadata": (
        "metadata",
        lambda store, it, bad: store.update_rollout(it.rollout_id, status="cancelled", metadata={"k": bad}),
    ),
    "update_attempt metadata": (
        "metadata",
        lambda store, it, bad: store.update_attempt(it.rollout_id, "latest", status="failed", metadata={"k": bad}),
    ),
    "add_span": ("span", lambda store, it, bad: store.add_span(span(it, attributes={"k": bad}))),
    "add_many_spans": (
        "span",
        lambda store, it, bad: store.add_many_spans([span(it, 1), span(it, 2, attributes={"k": bad})]),
    ),
    "add_resources": (
        "resources",
        lambda store, _, bad: store.add_resources({"good": Config(value=1), "bad": Config(value=bad)}),
    ),
    "update_resources": ("resources", lambda store, _, bad: store.update_resources("rs", {"bad": Config(value=bad)})),
    "update_worker": ("heartbeat_stats", lambda store, _, bad: store.update_worker("worker-1", {"k": bad})),
}


async def test_values_that_json_cannot_represent_are_rejected_without_a_change(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.enqueue_rollout("queued")
    before = await everything(store)

    for field, put in PARAMETERS.values():
        for value in UNREPRESENTABLE.values():
            await rejected(put(store, attempted, value), field, "rollouts")

    assert await everything(store) == before
    assert (await store.dequeue_rollout()).input == "queued"  # type: ignore[union-attr]


async def test_values_at_the_limits_are_accepted(store: LightningStore) -> None:
    value = {"deep": nested(62), "large": 2**63 - 1, "small": -(2**63), "text": "\x00\u2028\uffff 😀"}

    attempted = await claimed(store, value, metadata={"k": nested(60)})
    await store.add_resources({"config": Config(value=nested(60))})
    stored = await store.add_span(span(attempted, attributes={"k": nested(60)}))

    assert (await found(store, attempted)).input == value
    assert (await store.query_spans(attempted.rollout_id)).items == [stored]
    assert len((await everything(store))["resources"]) == 1


# Names


async def test_invalid_ids_are_rejected_without_a_change(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.enqueue_rollout("queued")
    before = await everything(store)

    for bad in BAD_IDS:
        await reject_id(store, attempted, bad)

    assert await everything(store) == before


async def reject_id(store: LightningStore, attempted: Any, bad: str) -> None:
    for call, field in [
        (lambda: store.dequeue_rollout(worker_id=bad), "worker_id"),
        (lambda: store.dequeue_many_rollouts(worker_id=bad), "worker_id"),
        (lambda: store.start_rollout("task", worker_id=bad), "worker_id"),
        (lambda: store.start_attempt(attempted.rollout_id, worker_id=bad), "worker_id"),
        (lambda: store.update_worker(bad), "worker_id"),
        (lambda: store.update_attempt(attempted.rollout_id, "latest", worker_id=bad), "worker_id"),
        (lambda: store.update_resources(bad, {}), "resources_id"),
        (lambda: store.add_span(span(attempted).model_copy(update={"span_id": bad})), "span_id"),
        (lambda: store.add_span(span(attempted).model_copy(update={"trace_id": bad})), "trace_id"),
        (lambda: store.add_many_spans([span(attempted).model_copy(update={"parent_id": bad})]), "parent_id"),
    ]:
        await rejected(call(), field, "span cannot be stored", "spans cannot be stored")


async def test_queries_with_invalid_ids_return_nothing_or_are_rejected(store: LightningStore) -> None:
    await claimed(store)

    for bad in BAD_IDS:
        await find_nothing(store, bad)


async def find_nothing(store: LightningStore, bad: str) -> None:
    for ask in (
        lambda: store.get_rollout_by_id(bad),
        lambda: store.query_rollouts([bad]),
        lambda: store.query_rollouts(rollout_id_contains=bad),
        lambda: store.query_attempts(bad),
        lambda: store.get_latest_attempt(bad),
        lambda: store.get_resources_by_id(bad),
        lambda: store.query_resources(resources_id=bad),
        lambda: store.query_spans(bad),
        lambda: store.query_spans("ro-1", bad),
        lambda: store.get_worker_by_id(bad),
        lambda: store.query_workers(worker_id_contains=bad),
    ):
        with suppress(ValueError):
            assert not await ask()

    for change in (
        lambda: store.update_rollout(bad, status="cancelled"),
        lambda: store.update_attempt(bad, "latest", status="failed"),
        lambda: store.start_attempt(bad),
        lambda: store.wait_for_rollouts([bad], timeout=0),
        lambda: store.enqueue_rollout("task", resources_id=bad),
    ):
        with pytest.raises(ValueError, match=r"."):
            await change()


SPECIAL_NAMES = (
    ["Worker 0", "a/b", "/", "..", ".", "a?b=c#d", "100%", "%2F", "naïve 😀", "' OR 1=1 --", "a+b&c", "latest", "null",
     "x" * 100, "{worker_id}", "a\\b", "a;b", "ro-1:at-1"]
)  # fmt: skip


async def test_ids_with_special_characters_are_accepted(store: LightningStore) -> None:
    for name in SPECIAL_NAMES:
        await use_name(store, name)


async def use_name(store: LightningStore, name: str) -> None:
    attempted = await claimed(store, worker_id=name)
    resources = await store.update_resources(name, {"config": Config(value=name)})

    worker = await store.get_worker_by_id(name)

    assert worker is not None
    assert (worker.worker_id, worker.current_attempt_id) == (name, attempted.attempt.attempt_id)
    assert worker in (await store.query_workers(worker_id_contains=name)).items
    assert await store.get_resources_by_id(name) == resources
    assert await store.get_resources_by_id(name, 1) == resources
    assert (await store.query_resources(resources_id=name)).items == [resources]
    rollout = await store.enqueue_rollout("task", resources_id=name)
    assert (rollout.resources_id, rollout.resources_version) == (name, 1)
    assert await store.get_rollout_by_id(name) is None
    assert (await store.query_spans(name, name)).items == []
    await store.update_rollout(rollout.rollout_id, status="cancelled")


# Values


async def test_values_of_the_wrong_type_are_rejected_without_a_change(store: LightningStore) -> None:
    """Over HTTP each is a 422 with the field; in the same process any error is accepted."""
    attempted = await claimed(store, worker_id="worker-1")
    await store.enqueue_rollout("queued")
    before = await everything(store)
    rollout_id = attempted.rollout_id
    calls: list[Callable[[Any], Any]] = [
        lambda wrong: store.enqueue_rollout("task", mode=wrong),
        lambda wrong: store.enqueue_rollout("task", resources_id=wrong),
        lambda wrong: store.enqueue_rollout("task", config=wrong),
        lambda wrong: store.enqueue_rollout("task", metadata=wrong),
        lambda wrong: store.start_rollout("task", mode=wrong),
        lambda wrong: store.start_rollout("task", metadata=wrong),
        lambda wrong: store.enqueue_many_rollouts(wrong),
        lambda wrong: store.enqueue_many_rollouts([wrong]),
        lambda wrong: store.dequeue_many_rollouts(limit=wrong),
        lambda wrong: store.dequeue_rollout(wait=wrong),
        lambda wrong: store.update_rollout(rollout_id, status=wrong),
        lambda wrong: store.update_rollout(rollout_id, mode=wrong),
        lambda wrong: store.update_rollout(rollout_id, config=wrong),
        lambda wrong: store.update_rollout(rollout_id, metadata=wrong),
        lambda wrong: store.update_attempt(rollout_id, "latest", status=wrong),
        lambda wrong: store.update_attempt(rollout_id, "latest", last_heartbeat_time=wrong),
        lambda wrong: store.update_attempt(rollout_id, "latest", metadata=wrong),
        lambda wrong: store.wait_for_rollouts(wrong, timeout=0),
        lambda wrong: store.wait_for_rollouts([rollout_id], timeout=wrong),
        lambda wrong: store.add_resources(wrong),
        lambda wrong: store.add_resources({"name": {"of": wrong}}),  # pyright: ignore[reportArgumentType]
        lambda wrong: store.update_worker("worker-1", heartbeat_stats=wrong),
        lambda wrong: store.update_worker("worker-1", attempts=wrong),
        lambda wrong: store.add_span(wrong),
        lambda wrong: store.add_many_spans([wrong]),
        lambda wrong: store.get_many_span_sequence_ids([wrong]),
    ]

    accepted: list[str] = []
    for call in calls:
        for wrong in ("nonsense", ["nonsense"], 1.5j):
            try:
                await call(wrong)
            except (ValueError, TypeError, AttributeError):
                continue
            accepted.append(f"{inspect.getsource(call).strip()} {wrong}")

    assert accepted == []
    assert await everything(store) == before


async def test_non_finite_times_are_rejected(store: LightningStore) -> None:
    attempted = await claimed(store)
    before = await everything(store)

    await rejected(soon(store.dequeue_rollout(wait=math.nan)), "wait")
    await rejected(soon(store.wait_for_rollouts([attempted.rollout_id], timeout=math.nan)), "timeout")
    for wrong in (math.nan, math.inf):
        await rejected(store.update_attempt(attempted.rollout_id, "latest", last_heartbeat_time=wrong), "heartbeat")
        await rejected(store.add_span(span(attempted, start_time=wrong)), "span")

    assert await everything(store) == before


async def test_infinite_timeout_is_rejected_or_means_no_limit(store: LightningStore) -> None:
    try:
        rollout = await store.enqueue_rollout("task", config=RolloutConfig(timeout_seconds=math.inf))
    except ValueError:
        assert (await store.query_rollouts()).items == []
    else:
        assert (await store.query_rollouts()).items == [rollout]


async def test_resource_without_a_type_is_rejected_with_the_reason(store: LightningStore) -> None:
    plain: Any = {"settings": {"temperature": 0.5}}

    for call in (lambda: store.add_resources(plain), lambda: store.update_resources("rs", plain)):
        with pytest.raises(InvalidInput, match="resource_type") as caught:
            await call()
        assert "settings" in f"{caught.value.field} {caught.value}"

    assert (await store.query_resources()).items == []


async def test_resource_as_a_typed_object_is_accepted(store: LightningStore) -> None:
    plain: Any = {"settings": {"resource_type": "config", "value": 1}, "prompt": "Hello"}

    update = await store.add_resources(plain)

    assert update.resources["settings"] == Config(value=1)
    assert update.resources["prompt"].resource_type == "prompt_template"
