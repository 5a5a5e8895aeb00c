"""A call that is repeated happens once: by its key on the wire, and by our client whatever gets lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from agentlightning.store import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
)
from agentlightning.types import AttemptedRollout, AttemptRef, Config, EnqueueRolloutRequest

from ..contract.making import claimed, everything, soon, span
from ..faults.proxy import Fault, Proxy
from .raw import ROUTES, Raw

MUTATING = [name for name, route in ROUTES.items() if route.mutates]


@asynccontextmanager
async def served(store: LightningStore) -> AsyncIterator[LightningStoreServer]:
    async with store:
        server = LightningStoreServer(store, port=0)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


async def prepared(store: LightningStore) -> tuple[AttemptedRollout, dict[str, dict[str, Any]]]:
    """A store in which every operation has something to do, and the arguments for each."""
    running = await claimed(store, worker_id="worker-1")
    await store.update_resources("rs-mine", {"config": Config(value=1)})
    for n in range(3):
        await store.enqueue_rollout(f"queued {n}")
    ids = {"rollout_id": running.rollout_id, "attempt_id": running.attempt.attempt_id}
    spans = [span(running, n).model_dump() for n in (1, 2)]
    return running, {
        "start_rollout": {"input": "mine"},
        "enqueue_rollout": {"input": "mine"},
        "enqueue_many_rollouts": {"rollouts": [{"input": "mine"}, {"input": "mine too"}]},
        "dequeue_rollout": {"worker_id": "worker-2"},
        "dequeue_many_rollouts": {"limit": 2},
        "start_attempt": {"rollout_id": running.rollout_id},
        "update_rollout": {"rollout_id": running.rollout_id, "status": "cancelled"},
        "update_attempt": {**ids, "status": "succeeded"},
        "add_resources": {"resources": {"prompt": "mine"}},
        "update_resources": {"resources_id": "rs-mine", "resources": {"prompt": "mine"}},
        "add_span": {"span": spans[0]},
        "add_many_spans": {"spans": spans},
        "get_next_span_sequence_id": ids,
        "get_many_span_sequence_ids": {"rollout_attempt_ids": [list(ids.values())] * 2},
        "update_worker": {"worker_id": "worker-1", "heartbeat_stats": {"cpu": 1}},
    }


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


# The key


async def test_every_change_is_tried(server: LightningStoreServer) -> None:
    _, arguments = await prepared(server)

    assert sorted(arguments) == sorted(MUTATING)


@pytest.mark.parametrize("name", MUTATING)
async def test_the_same_key_again_gets_the_same_answer_and_changes_nothing(
    server: LightningStoreServer, name: str
) -> None:
    _, arguments = await prepared(server)
    async with Raw(server.endpoint) as raw:
        before = await everything(server)
        first = await raw.call(name, arguments[name], Idempotency_Key="mine")
        between = await everything(server)
        again = [await raw.call(name, arguments[name], Idempotency_Key="mine") for _ in range(3)]

    assert first.status == 200
    assert [(answer.status, answer.json) for answer in again] == [(200, first.json)] * 3
    assert await everything(server) == between
    assert between != before or name.startswith("get_")


async def test_the_same_key_at_the_same_time_happens_once(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        answers = await soon(
            asyncio.gather(*(raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine") for _ in range(20)))
        )

    assert len({answer.text for answer in answers}) == 1
    assert (await server.query_rollouts()).total == 1


async def test_another_key_or_none_is_another_call(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        for headers in ({"Idempotency_Key": "one"}, {"Idempotency_Key": "two"}, {}, {}):
            assert (await raw.call("enqueue_rollout", {"input": 1}, **headers)).status == 200

    assert (await server.query_rollouts()).total == 4


async def test_a_key_of_one_operation_does_not_answer_another(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        enqueued = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
        resources = await raw.call("add_resources", {"resources": {}}, Idempotency_Key="mine")

    assert enqueued.json["rollout_id"]
    assert resources.status in (409, 422) or resources.json["resources_id"]


async def test_the_same_key_with_another_body_does_not_happen(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        await raw.call("enqueue_rollout", {"input": "first"}, Idempotency_Key="mine")
        await raw.call("enqueue_rollout", {"input": "second"}, Idempotency_Key="mine")

    assert [rollout.input for rollout in await server.query_rollouts()] == ["first"]


async def test_a_refused_call_may_be_corrected_under_its_key(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        refused = await raw.call("enqueue_rollout", {"input": 1, "mode": "nonsense"}, Idempotency_Key="mine")
        corrected = await raw.call("enqueue_rollout", {"input": 1, "mode": "val"}, Idempotency_Key="mine")

    assert (refused.status, corrected.status) == (422, 200)
    assert (await server.query_rollouts()).total == 1


async def test_an_empty_queue_is_asked_again_under_a_new_key(server: LightningStoreServer) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        assert await client.dequeue_rollout() is None
        rollout = await client.enqueue_rollout("task")
        attempted = await client.dequeue_rollout()

    assert attempted is not None
    assert attempted.rollout_id == rollout.rollout_id


async def test_keys_outlive_the_store_that_took_them(tmp_path: Path) -> None:
    answers: list[Any] = []
    for _ in range(2):
        async with served(SqliteLightningStore(tmp_path / "agl.db")) as server, Raw(server.endpoint) as raw:
            answers += [
                (await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="enqueue")).json,
                (await raw.call("dequeue_rollout", {}, Idempotency_Key="dequeue")).json,
            ]
            total = (await server.query_rollouts()).total

    assert answers[:2] == answers[2:]
    assert total == 1


# The client

Act = Callable[[LightningStore, AttemptedRollout], Awaitable[Any]]
Effect = Callable[[LightningStore, AttemptedRollout, Any], Awaitable[bool]]


async def new_rollouts(store: LightningStore) -> list[Any]:
    return [rollout for rollout in await store.query_rollouts() if str(rollout.input).startswith("mine")]


async def attempts(store: LightningStore) -> list[Any]:
    pages = [await store.query_attempts(rollout.rollout_id) for rollout in await store.query_rollouts()]
    return [attempt for page in pages for attempt in page]


def ids(it: AttemptedRollout) -> tuple[str, str]:
    return it.rollout_id, it.attempt.attempt_id


async def _resources(store: LightningStore, _: Any, answer: Any) -> bool:
    return (await store.query_resources()).items[1:] == [answer]


async def _spans(store: LightningStore, it: AttemptedRollout, answer: Any) -> bool:
    return (await store.query_spans(it.rollout_id)).items == (answer if isinstance(answer, list) else [answer])


async def _claims(store: LightningStore, it: AttemptedRollout, answer: Any) -> bool:
    taken = [each.attempt for each in (answer if isinstance(answer, list) else [answer])]
    return [attempt for attempt in await attempts(store) if attempt.rollout_id != it.rollout_id] == taken


CALLS: dict[str, tuple[Act, Effect]] = {
    "start_rollout": (
        lambda store, it: store.start_rollout("mine"),
        lambda store, it, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_rollout": (
        lambda store, it: store.enqueue_rollout("mine"),
        lambda store, it, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_many_rollouts": (
        lambda store, it: store.enqueue_many_rollouts([EnqueueRolloutRequest(input=f"mine {n}") for n in range(3)]),
        lambda store, it, answer: _equal(new_rollouts(store), answer),
    ),
    "dequeue_rollout": (lambda store, it: store.dequeue_rollout(worker_id="worker-2"), _claims),
    "dequeue_rollout, waiting": (lambda store, it: store.dequeue_rollout(wait=20), _claims),
    "dequeue_many_rollouts": (lambda store, it: store.dequeue_many_rollouts(limit=2), _claims),
    "start_attempt": (
        lambda store, it: store.start_attempt(it.rollout_id),
        lambda store, it, answer: _equal(_ids(store, it), [it.attempt.attempt_id, answer.attempt.attempt_id]),
    ),
    "update_rollout": (
        lambda store, it: store.update_rollout(it.rollout_id, status="cancelled"),
        lambda store, it, answer: _equal(store.get_rollout_by_id(it.rollout_id), answer),
    ),
    "update_attempt": (
        lambda store, it: store.update_attempt(*ids(it), status="succeeded"),
        lambda store, it, answer: _equal(store.get_latest_attempt(it.rollout_id), answer),
    ),
    "add_resources": (lambda store, it: store.add_resources({"n": Config(value=2)}), _resources),
    "update_resources": (lambda store, it: store.update_resources("rs-mine", {"n": Config(value=2)}), _resources),
    "add_span": (lambda store, it: store.add_span(span(it)), _spans),
    "add_many_spans": (lambda store, it: store.add_many_spans([span(it, 1), span(it, 2)]), _spans),
    "get_next_span_sequence_id": (
        lambda store, it: store.get_next_span_sequence_id(*ids(it)),
        lambda store, it, answer: _equal(store.get_next_span_sequence_id(*ids(it)), answer + 1),
    ),
    "get_many_span_sequence_ids": (
        lambda store, it: store.get_many_span_sequence_ids([ids(it)] * 2),
        lambda store, it, answer: _equal(store.get_next_span_sequence_id(*ids(it)), answer[-1] + 1),
    ),
    "update_worker": (
        lambda store, it: store.update_worker(
            "worker-1", {"cpu": 2}, [AttemptRef(rollout_id=it.rollout_id, attempt_id=it.attempt.attempt_id)]
        ),
        lambda store, it, answer: _equal(store.get_worker_by_id("worker-1"), answer),
    ),
}


async def _equal(found: Awaitable[Any], expected: Any) -> bool:
    return await found == expected


async def _ids(store: LightningStore, it: AttemptedRollout) -> list[str]:
    return [attempt.attempt_id for attempt in await store.query_attempts(it.rollout_id)]


async def happens_once(name: str, fault: Fault, times: int) -> str | None:
    """What is wrong after one call met `fault` so many times; None when it happened once and was answered rightly."""
    act, effect = CALLS[name]
    async with served(InMemoryLightningStore()) as server, Proxy(server.endpoint, fault, times) as proxy:
        running, _ = await prepared(server)
        async with LightningStoreClient(proxy.endpoint) as client:
            try:
                answer = await soon(act(client, running))
            except Exception as error:
                return f"{name}: {error!r}"
        if proxy.left > 0:
            return f"{name}: the fault was never met"
        if not await effect(server, running, answer):
            return f"{name}: {answer!r} is not what happened"
    return None


def test_every_change_of_the_client_is_tried() -> None:
    assert {name.partition(",")[0] for name in CALLS} == set(MUTATING)


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_every_call_happens_once_whatever_gets_lost(fault: Fault) -> None:
    wrong = await asyncio.gather(*(happens_once(name, fault, 1) for name in CALLS))

    assert [each for each in wrong if each] == []


async def test_one_enqueue_whose_first_three_answers_are_lost_makes_one_rollout() -> None:
    assert await happens_once("enqueue_rollout", "lost answer", 3) is None


async def test_a_lost_answer_to_a_claim_orphans_nothing() -> None:
    assert await happens_once("dequeue_rollout", "lost answer", 3) is None
    assert await happens_once("dequeue_rollout, waiting", "lost answer", 3) is None
