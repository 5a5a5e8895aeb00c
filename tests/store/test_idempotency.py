"""Idempotency: a repeated request happens once, by its key over HTTP and by the client under network faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from copy import copy
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
from agentlightning.store.db.database import INSERT_RESPONSE, Transaction
from agentlightning.store.sql import SqlStore, schema
from agentlightning.store.sql.base import IdempotentRequest, execute_once
from agentlightning.types import AttemptedRollout

from ..conftest import Figure
from ..contract.conftest import WAYS
from ..contract.making import everything, soon
from ..faults.lossy import CALLS, prepare, run_with_every_fault, run_with_fault, served
from ..faults.proxy import Fault
from .raw import ROUTES, Raw
from .stalled_writer import run_loop_iterations, stalled_writer

MUTATING = [name for name, route in ROUTES.items() if route.mutates]


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


# Idempotency keys


async def test_every_mutation_is_covered(server: LightningStoreServer) -> None:
    _, arguments = await prepare(server)

    assert sorted(arguments) == sorted(MUTATING)


@pytest.mark.parametrize("name", MUTATING)
async def test_repeated_key_returns_the_first_response(server: LightningStoreServer, name: str) -> None:
    _, arguments = await prepare(server)
    async with Raw(server.endpoint) as raw:
        before = await everything(server)
        first = await raw.call(name, arguments[name], Idempotency_Key="mine")
        between = await everything(server)
        again = [await raw.call(name, arguments[name], Idempotency_Key="mine") for _ in range(3)]

    assert first.status == 200
    assert [(answer.status, answer.json) for answer in again] == [(200, first.json)] * 3
    assert await everything(server) == between
    assert between != before or name.startswith(("get_", "hold_"))  # no list shows their changes


async def test_concurrent_requests_with_one_key_happen_once(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        answers = await soon(
            asyncio.gather(*(raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine") for _ in range(20)))
        )

    assert len({answer.text for answer in answers}) == 1
    assert (await server.query_rollouts()).total == 1


async def test_other_key_or_none_is_another_request(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        for headers in ({"Idempotency_Key": "one"}, {"Idempotency_Key": "two"}, {}, {}):
            assert (await raw.call("enqueue_rollout", {"input": 1}, **headers)).status == 200

    assert (await server.query_rollouts()).total == 4


async def test_key_is_valid_for_one_operation(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        enqueued = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
        resources = await raw.call("add_resources", {"resources": {}}, Idempotency_Key="mine")

    assert enqueued.json["rollout_id"]
    assert resources.status in (409, 422) or resources.json["resources_id"]


async def test_repeated_key_with_another_body_is_rejected(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        await raw.call("enqueue_rollout", {"input": "first"}, Idempotency_Key="mine")
        await raw.call("enqueue_rollout", {"input": "second"}, Idempotency_Key="mine")

    assert [rollout.input for rollout in await server.query_rollouts()] == ["first"]


async def test_rejected_request_may_be_corrected_under_its_key(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        refused = await raw.call("enqueue_rollout", {"input": 1, "mode": "nonsense"}, Idempotency_Key="mine")
        corrected = await raw.call("enqueue_rollout", {"input": 1, "mode": "val"}, Idempotency_Key="mine")

    assert (refused.status, corrected.status) == (422, 200)
    assert (await server.query_rollouts()).total == 1


async def test_empty_claim_is_repeated_under_a_new_key(server: LightningStoreServer) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        assert await client.dequeue_rollout() is None
        rollout = await client.enqueue_rollout("task")
        attempted = await client.dequeue_rollout()

    assert attempted is not None
    assert attempted.rollout_id == rollout.rollout_id


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
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


def test_every_mutation_of_the_client_is_covered() -> None:
    assert {name.partition(",")[0] for name in CALLS} == set(MUTATING)


async def test_every_mutation_happens_once_under_faults(figure: Figure) -> None:
    result = await run_with_every_fault(5)

    figure(result)
    assert result.calls == len(CALLS) * 8 * 5
    assert result.wrong == []


async def test_enqueue_with_lost_responses_creates_one_rollout() -> None:
    assert await run_with_fault("enqueue_rollout", "lost answer", 3) is None


async def test_claim_with_a_lost_response_orphans_no_rollout() -> None:
    assert await run_with_fault("dequeue_rollout", "lost answer", 3) is None
    assert await run_with_fault("dequeue_rollout, waiting", "lost answer", 3) is None


@pytest.mark.parametrize("way", ["memory", "file", "postgres"])
async def test_repeated_claim_is_not_undone(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        rollout = await store.enqueue_rollout("task")
        async with stalled_writer(store):
            gone = asyncio.ensure_future(claim(store, claim_request()))
            again = asyncio.ensure_future(claim(store, claim_request()))
            await run_loop_iterations()
            gone.cancel()
            await run_loop_iterations()

        received = await soon(again)
        await soon(asyncio.wait([gone]))

        live = await store.get_latest_attempt(rollout.rollout_id)
        assert gone.cancelled()
        assert (live.attempt_id, live.status) == (received.attempt.attempt_id, "preparing")
        assert await store.dequeue_rollout() is None


@pytest.mark.parametrize("way", ["file", "postgres"])
async def test_repeated_claim_gets_another_attempt_after_the_first_claim_was_undone(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as store:
        rollout = await store.enqueue_rollout("task")
        async with stalled_writer(store):
            cancelled = asyncio.ensure_future(claim(store, claim_request()))
            await run_loop_iterations()
            cancelled.cancel()
            await run_loop_iterations()
        await soon(asyncio.wait([cancelled]))
        assert list(await store.query_attempts(rollout.rollout_id)) == []

        repeated = await claim(store, claim_request())

        attempts = await store.query_attempts(rollout.rollout_id)
        assert [each.attempt_id for each in attempts] == [repeated.attempt.attempt_id]


@pytest.mark.parametrize("way", ["file", "postgres"])
async def test_claim_is_not_undone_once_a_repeated_request_has_received_it(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as opened:
        store: Any = opened
        for task in range(2):
            await store.enqueue_rollout(task)
        request = claim_request()
        first = await claim(store, request)
        await claim(store, claim_request())
        async with stalled_writer(store):
            undone = asyncio.ensure_future(
                store._database.write(lambda transaction: transaction.revoke_response(request.key, request.time))
            )
            third = asyncio.ensure_future(claim(store, claim_request()))
            await run_loop_iterations()

        assert await soon(undone) is False
        assert (await soon(third)).attempt.attempt_id == first.attempt.attempt_id


def claim_request() -> IdempotentRequest:
    return IdempotentRequest(
        "a claim",
        encode=lambda claimed: claimed.model_dump_json().encode(),
        decode=AttemptedRollout.model_validate_json,
    )


async def claim(store: Any, request: IdempotentRequest) -> AttemptedRollout | None:
    """Claim as the server does for a request with an idempotency key."""
    view = copy(store)
    view.request = request
    return await SqlStore.dequeue_rollout(view)


# Faults that the tests above detect

CREATING = ["start_rollout", "enqueue_rollout", "enqueue_many_rollouts", "dequeue_rollout", "start_attempt"]


@pytest.mark.parametrize("fault", ["lost answer", "twice"])
async def test_faults_detect_a_store_without_idempotency(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    monkeypatch.setattr("agentlightning.store.sql.base.execute_once", execute_always)

    found = [name for name in CREATING if await run_with_fault(name, fault, 1)]

    assert found == CREATING


async def test_faults_detect_a_store_with_duplicate_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also change the tables, because their constraints would reject the duplicate too."""

    async def none(*_: Any) -> set[str]:
        return set()

    tables = [[text.replace(ONE_SPAN, "UNIQUE (ordinal)") for text in step] for step in schema.STEPS]
    monkeypatch.setattr("agentlightning.store.sql.base.execute_once", execute_always)
    monkeypatch.setattr("agentlightning.store.sql.spans._stored_ids", none)
    monkeypatch.setattr(schema, "STEPS", tables)

    for name in ("add_span", "add_many_spans"):
        assert "differs from the store's contents" in (await run_with_fault(name, "lost answer", 1) or "")


ONE_SPAN = "UNIQUE (rollout_id, attempt_id, span_id)"


def execute_always(request: Any, body: Any, lease: float) -> Any:
    """`execute_once` without deduplication."""
    return body


async def test_response_of_a_rolled_back_transaction_is_discarded() -> None:
    request = IdempotentRequest("a claim", encode=lambda claimed: b"".join(claimed), decode=lambda text: [text])
    results = iter([[b"a rollout"], [], []])  # the first run is rolled back, and the second

    async def claim(transaction: Transaction) -> list[bytes]:
        return next(results)

    once = execute_once(request, claim, 0.0)

    async def rolled_back(transaction: Transaction) -> None:
        await once(transaction)
        raise Conflict("another body in its group failed")

    async with InMemoryLightningStore() as store:
        with pytest.raises(Conflict):
            await store._database.write(rolled_back)  # pyright: ignore[reportPrivateUsage]
        assert await store._database.write(once) == []  # pyright: ignore[reportPrivateUsage]

    assert request.response is None


async def test_response_that_another_server_has_stored_replaces_a_conflict() -> None:
    request = IdempotentRequest("a report", encode=lambda received: received, decode=lambda text: text)

    async def report(transaction: Transaction) -> bytes:
        await transaction.execute(INSERT_RESPONSE, request.key, b"of another server", 0.0)
        raise Conflict("the attempt has already finished")

    async with InMemoryLightningStore() as store:
        result = await store._database.write(execute_once(request, report, 0.0))  # pyright: ignore[reportPrivateUsage]

    assert result == request.response == b"of another server"


async def test_request_may_be_repeated_after_hours_of_downtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> tuple[Any, int]:
        store = SqliteLightningStore(tmp_path / "agl.db")
        async with served(store) as server, Raw(server.endpoint) as raw:
            await store.prune()
            answer = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
            return answer.json, (await store.query_rollouts()).total

    first = await ask()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 7_200)

    assert await ask() == first
    assert first[1] == 1


async def test_expired_responses_are_deleted_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.sql.DELETED_PER_TRANSACTION", 3)
    store = SqliteLightningStore(tmp_path / "agl.db")
    async with served(store) as server, Raw(server.endpoint) as raw:
        for number in range(7):
            await raw.call("enqueue_rollout", {"input": number}, Idempotency_Key=f"key-{number}")
        assert await kept_answers(store) == 7
        monkeypatch.setattr(
            "agentlightning.store.sql.RESPONSE_SECONDS", 0.0
        )  # only now: the store also deletes by itself
        await store.prune()
        assert await kept_answers(store) == 0


async def kept_answers(store: SqliteLightningStore) -> int:
    found = await store._database.fetch("SELECT count(*) FROM answers")  # pyright: ignore[reportPrivateUsage]
    return found[0][0]
