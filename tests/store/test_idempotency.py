"""A call that is repeated happens once: by its key on the wire, and by our client whatever gets lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import Conflict
from agentlightning.store import (
    InMemoryLightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
)
from agentlightning.store.db.database import KEEP_ANSWER, Transaction
from agentlightning.store.sql import idempotency, schema
from agentlightning.store.sql.idempotency import AlreadyAnswered, Question, asked, once
from agentlightning.types import AttemptedRollout

from ..conftest import Figure
from ..contract.conftest import WAYS
from ..contract.making import everything, soon
from ..faults.lossy import CALLS, happens_once, meet_every_fault, prepared, served
from ..faults.proxy import Fault
from .held_up import a_few_turns, held_up
from .raw import ROUTES, Raw

MUTATING = [name for name, route in ROUTES.items() if route.mutates]


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
    assert between != before or name.startswith(("get_", "hold_"))  # what no list shows


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


def test_every_change_of_the_client_is_tried() -> None:
    assert {name.partition(",")[0] for name in CALLS} == set(MUTATING)


async def test_every_call_happens_once_whatever_gets_lost(figure: Figure) -> None:
    result = await meet_every_fault(5)

    figure(result)
    assert result.calls == len(CALLS) * 8 * 5
    assert result.wrong == []


async def test_one_enqueue_whose_first_three_answers_are_lost_makes_one_rollout() -> None:
    assert await happens_once("enqueue_rollout", "lost answer", 3) is None


async def test_a_lost_answer_to_a_claim_orphans_nothing() -> None:
    assert await happens_once("dequeue_rollout", "lost answer", 3) is None
    assert await happens_once("dequeue_rollout, waiting", "lost answer", 3) is None


@pytest.mark.parametrize("way", ["memory", "file", "postgres"])
async def test_a_claim_that_its_caller_asks_for_again_is_not_taken_back(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        rollout = await store.enqueue_rollout("task")
        async with held_up(store):
            gone = asyncio.ensure_future(claim_under_a_key(store))
            again = asyncio.ensure_future(claim_under_a_key(store))
            await a_few_turns()
            gone.cancel()
            await a_few_turns()

        told = await soon(again)
        await soon(asyncio.wait([gone]))

        live = await store.get_latest_attempt(rollout.rollout_id)
        assert gone.cancelled()
        assert (live.attempt_id, live.status) == (told.attempt.attempt_id, "preparing")
        assert await store.dequeue_rollout() is None


@pytest.mark.parametrize("way", ["memory", "file", "postgres"])
async def test_who_asks_again_after_a_claim_was_taken_back_gets_another(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        rollout = await store.enqueue_rollout("task")
        async with held_up(store):
            gone = asyncio.ensure_future(claim_under_a_key(store))
            await a_few_turns()
            gone.cancel()
            await a_few_turns()
        await soon(asyncio.wait([gone]))
        assert list(await store.query_attempts(rollout.rollout_id)) == []

        told = await claim_under_a_key(store)

        assert [each.attempt_id for each in await store.query_attempts(rollout.rollout_id)] == [told.attempt.attempt_id]


@pytest.mark.parametrize("way", ["memory", "file", "postgres"])
async def test_who_asks_a_third_time_when_a_claim_was_not_taken_back_is_told_of_it(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        for task in range(2):
            await store.enqueue_rollout(task)
        first = await claim_under_a_key(store)
        question = asked.get()
        assert question
        await claim_under_a_key(store)
        async with held_up(store):
            taken_back = asyncio.ensure_future(
                store._database.write(lambda transaction: transaction.take_back_answer(question.key, question.time))
            )
            third = asyncio.ensure_future(claim_under_a_key(store))
            await a_few_turns()

        assert await soon(taken_back) is False
        assert (await soon(third)).attempt.attempt_id == first.attempt.attempt_id


async def claim_under_a_key(store: Any) -> AttemptedRollout:
    """What the server does for a claim that comes with an idempotency key."""
    asked.set(Question("a claim", encode=lambda claimed: claimed.model_dump_json().encode()))
    try:
        return await store.dequeue_rollout()
    except AlreadyAnswered as earlier:
        return AttemptedRollout.model_validate_json(earlier.answer)


# What shows that the tests above can fail

CREATING = ["start_rollout", "enqueue_rollout", "enqueue_many_rollouts", "dequeue_rollout", "start_attempt"]


@pytest.mark.parametrize("fault", ["lost answer", "twice"])
async def test_the_faults_find_a_store_that_carries_a_repeated_call_out_again(
    monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("agentlightning.store.sql.base.once", without_a_memory)

    found = [name for name in CREATING if await happens_once(name, fault, 1)]

    assert found == CREATING


async def test_the_faults_find_a_store_that_keeps_a_repeated_span_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables would refuse the second one too, so they are changed with the code."""

    async def none(*_: Any) -> set[str]:
        return set()

    tables = [[text.replace(ONE_SPAN, "UNIQUE (ordinal)") for text in step] for step in schema.STEPS]
    monkeypatch.setattr("agentlightning.store.sql.base.once", without_a_memory)
    monkeypatch.setattr("agentlightning.store.sql.spans._known", none)
    monkeypatch.setattr(schema, "STEPS", tables)

    for name in ("add_span", "add_many_spans"):
        assert "is not what happened" in (await happens_once(name, "lost answer", 1) or "")


ONE_SPAN = "UNIQUE (rollout_id, attempt_id, span_id)"


def without_a_memory(question: Any, body: Any, now: float) -> Any:
    """`idempotency.once` with the deduplication left out."""
    return body


async def test_an_answer_that_was_rolled_back_is_given_to_nobody() -> None:
    question = Question("a claim", encode=lambda claimed: b"".join(claimed))
    finds = iter([[b"a rollout"], [], []])  # the first run is rolled back, and the second

    async def claim(transaction: Transaction) -> list[bytes]:
        return next(finds)

    answering = once(question, claim, 0.0)

    async def spoiled(transaction: Transaction) -> None:
        await answering(transaction)
        raise Conflict("another in its group failed")

    async with InMemoryLightningStore() as store:
        with pytest.raises(Conflict):
            await store._database.write(spoiled)  # pyright: ignore[reportPrivateUsage]
        assert await store._database.write(answering) == []  # pyright: ignore[reportPrivateUsage]

    assert question.answer is None


async def test_a_question_whose_answer_came_in_the_meantime_gets_it_instead_of_a_conflict() -> None:
    question = Question("a report", encode=lambda told: told)

    async def report(transaction: Transaction) -> bytes:
        await transaction.execute(KEEP_ANSWER, question.key, b"as told to another server", 0.0)
        raise Conflict("it has already ended")

    async with InMemoryLightningStore() as store:
        told = await store._database.write(once(question, report, 0.0))  # pyright: ignore[reportPrivateUsage]

    assert isinstance(told, AlreadyAnswered)
    assert told.answer == b"as told to another server"


async def test_a_question_may_be_asked_again_after_a_store_was_away_for_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> tuple[Any, int]:
        store = SqliteLightningStore(tmp_path / "agl.db")
        async with served(store) as server, Raw(server.endpoint) as raw:
            await store.tidy()
            answer = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
            return answer.json, (await store.query_rollouts()).total

    first = await ask()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 7_200)

    assert await ask() == first
    assert first[1] == 1


async def test_answers_that_nobody_will_ask_for_again_are_dropped_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "FORGOTTEN_AT_ONCE", 3)
    store = SqliteLightningStore(tmp_path / "agl.db")
    async with served(store) as server, Raw(server.endpoint) as raw:
        for number in range(7):
            await raw.call("enqueue_rollout", {"input": number}, Idempotency_Key=f"key-{number}")
        assert await kept_answers(store) == 7
        monkeypatch.setattr(idempotency, "KEPT_SECONDS", 0.0)  # not before: the store tidies up by itself as well
        await store.tidy()
        assert await kept_answers(store) == 0


async def kept_answers(store: SqliteLightningStore) -> int:
    found = await store._fetch("SELECT count(*) FROM answers")  # pyright: ignore[reportPrivateUsage]
    return found[0][0]
