"""Batches: several operations in one request, each executed, answered and refused by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.http.transport import MAX_IN_FLIGHT, Outcome, RequestBatcher, StoreCall
from agentlightning.store.operations import operation_table

from .raw import Answer, Raw

ADMIN, RUNNER = "a" * 32, "r" * 32


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    yield server
    await server.close()


async def batch(server: LightningStoreServer, *operations: dict[str, Any], **headers: str) -> Answer:
    async with Raw(server.endpoint) as raw:
        return await raw.send("POST", "/batch", json.dumps({"operations": operations}).encode(), **headers)


async def test_each_operation_gets_its_own_answer(server: LightningStoreServer) -> None:
    rollout = await server.enqueue_rollout("known")

    answer = await batch(
        server,
        {"operation": "enqueue_rollout", "arguments": {"input": "new"}},
        {"operation": "get_rollout_by_id", "arguments": {"rollout_id": rollout.rollout_id}},
        {"operation": "update_rollout", "arguments": {"rollout_id": "unknown", "status": "cancelled"}},
        {"operation": "enqueue_rollout", "arguments": {"input": 1, "mode": "wrong"}},
    )

    made, looked_up, unknown, wrong = answer.json["answers"]
    assert answer.status == 200
    assert (made["status"], made["body"]["input"]) == (200, "new")
    assert (looked_up["status"], looked_up["body"]["input"]) == (200, "known")
    assert (unknown["status"], unknown["body"]["field"]) == (404, "rollout_id")
    assert (wrong["status"], wrong["body"]["field"]) == (422, "mode")
    assert (await server.query_rollouts()).total == 2


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ({"operation": "query_rollouts"}, "operation"),
        ({"operation": "no such"}, "operation"),
        ({"operation": "dequeue_rollout", "arguments": {"wait": 5}}, "wait"),
        ({"operation": "enqueue_rollout", "arguments": [1]}, "body"),
        ({"operation": "enqueue_rollout", "arguments": {"input": 1}, "idempotency_key": ""}, "Idempotency-Key"),
    ],
)
async def test_operation_that_a_batch_cannot_hold_is_refused_alone(
    server: LightningStoreServer, operation: dict[str, Any], field: str
) -> None:
    answer = await batch(server, operation, {"operation": "enqueue_rollout", "arguments": {"input": "beside it"}})

    refused, made = answer.json["answers"]
    assert (refused["status"], refused["body"]["field"]) == (422, field)
    assert made["status"] == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"operations": [1]}', b'{"operations": [{}]}', b"\xff"])
async def test_malformed_batch_is_refused_as_a_whole(server: LightningStoreServer, body: bytes) -> None:
    async with Raw(server.endpoint) as raw:
        answer = await raw.send("POST", "/batch", body)

    assert (answer.status, answer.json["field"]) == (422, "body")


async def test_batch_of_too_many_operations_is_refused(server: LightningStoreServer) -> None:
    answer = await batch(server, *[{"operation": "enqueue_rollout", "arguments": {"input": 1}}] * 257)

    assert (answer.status, answer.json["field"]) == (422, "operations")
    assert (await server.query_rollouts()).total == 0


async def test_operation_repeated_under_the_same_key_is_executed_once(server: LightningStoreServer) -> None:
    call = {"operation": "enqueue_rollout", "arguments": {"input": 1}, "idempotency_key": "mine"}

    first = (await batch(server, call)).json["answers"]
    async with Raw(server.endpoint) as raw:
        alone = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
    again = (await batch(server, call)).json["answers"]

    assert first == again
    assert alone.json == first[0]["body"]
    assert (await server.query_rollouts()).total == 1


async def test_runner_token_permits_no_more_in_a_batch() -> None:
    server = LightningStoreServer(InMemoryLightningStore(), port=0, token=ADMIN, runner_token=RUNNER)
    await server.start()
    try:
        answer = await batch(
            server,
            {"operation": "enqueue_rollout", "arguments": {"input": 1}},
            {"operation": "dequeue_rollout", "arguments": {"worker_id": "mine"}},
            Authorization=f"Bearer {RUNNER}",
        )
    finally:
        await server.close()

    assert [each["status"] for each in answer.json["answers"]] == [403, 200]


async def test_access_log_and_metrics_list_each_operation_of_a_batch(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "agentlightning.store.access"):
        await batch(
            server,
            {"operation": "enqueue_rollout", "arguments": {"input": 1}},
            {"operation": "update_rollout", "arguments": {"rollout_id": "unknown"}},
            {"operation": "get_rollout_by_id", "arguments": {"rollout_id": "unknown"}},
            {"operation": "no\nsuch"},
        )
        async with Raw(server.endpoint) as raw:
            counted = (await raw.send("GET", "/metrics")).text
        await server.stop()  # log lines are written after the answers

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split('"')[1] for line in lines[:4]] == [
        "POST /enqueue_rollout HTTP/1.1",
        "POST /update_rollout HTTP/1.1",
        "GET /get_rollout_by_id HTTP/1.1",
        "POST /batch HTTP/1.1",
    ]
    assert 'agl_requests_total{operation="update_rollout",status="404"} 1' in counted


async def test_concurrent_calls_share_one_request(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        with caplog.at_level(logging.INFO, "agentlightning.store.access"):
            made = await asyncio.gather(*(client.enqueue_rollout(number) for number in range(40)))
            await server.stop()  # log lines are written after the answers

    connections = {record.getMessage().split()[0] for record in caplog.records}
    assert sorted(rollout.input for rollout in made) == list(range(40))
    assert len(caplog.records) == 40
    assert len(connections) == 1


# The batcher


def store_call(number: int) -> StoreCall:
    operation = operation_table()["enqueue_rollout"]
    arguments = {"input": number}
    return StoreCall(operation, arguments, "/enqueue_rollout", {}, b'{"input":%d}' % number, None, 0.0)


class ScriptedStore:
    """Records the requests of a batcher; responds when it is opened."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[list[int]] = asyncio.Queue()
        self.is_open = asyncio.Event()
        self.batcher = RequestBatcher(self.send_alone, self.send_batch)

    async def send_alone(self, call: StoreCall) -> Outcome:
        return (await self.send_batch([call]))[0]

    async def send_batch(self, calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        self.requests.put_nowait([call.arguments["input"] for call in calls])
        await self.is_open.wait()
        return [(200, b"%d" % call.arguments["input"]) for call in calls]

    def send(self, *numbers: int) -> list[asyncio.Task[Outcome]]:
        return [asyncio.create_task(self.batcher.send(store_call(number))) for number in numbers]

    async def next_request(self) -> list[int]:
        return await asyncio.wait_for(self.requests.get(), 15)

    async def fill(self) -> list[asyncio.Task[Outcome]]:
        """Send as many requests as may be in flight before calls gather."""
        sent: list[asyncio.Task[Outcome]] = []
        for number in range(MAX_IN_FLIGHT):
            sent += self.send(number)
            assert await self.next_request() == [number]
        return sent


async def test_calls_gather_while_requests_are_in_flight() -> None:
    store = ScriptedStore()
    sent = [*await store.fill(), *store.send(7, 8, 9)]
    store.is_open.set()

    answers = await asyncio.gather(*sent)

    assert await store.next_request() == [7, 8, 9]
    assert answers == [(200, b"0"), (200, b"1"), (200, b"7"), (200, b"8"), (200, b"9")]


async def test_slow_request_holds_back_no_others() -> None:
    store = ScriptedStore()
    stuck = await store.fill()
    stuck += store.send(7)

    assert await store.next_request() == [7]
    assert not any(task.done() for task in stuck)
    store.is_open.set()
    await asyncio.gather(*stuck)


async def test_call_whose_caller_was_cancelled_is_not_sent() -> None:
    store = ScriptedStore()
    sent = await store.fill()
    cancelled, kept = store.send(7, 8)
    await asyncio.sleep(0)
    cancelled.cancel()
    store.is_open.set()

    assert await kept == (200, b"8")
    assert await store.next_request() == [8]
    await asyncio.gather(*sent)


async def test_every_call_of_a_batch_learns_that_the_store_is_unreachable() -> None:
    async def send_batch(calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        return [StoreUnavailable("unreachable")] * len(calls)

    async def send_alone(call: StoreCall) -> Outcome:
        return (await send_batch([call]))[0]

    batcher = RequestBatcher(send_alone, send_batch)

    outcomes = await asyncio.gather(*(batcher.send(store_call(number)) for number in range(3)))

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3


async def test_response_with_too_few_answers_leaves_no_call_waiting() -> None:
    async def send_batch(calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        return [(200, b"1")]

    async def send_alone(call: StoreCall) -> Outcome:
        return 200, b"1"

    batcher = RequestBatcher(send_alone, send_batch)

    outcomes = await asyncio.gather(*(batcher.send(store_call(n)) for n in range(3)), return_exceptions=True)

    assert outcomes[0] == (200, b"1")
    assert [type(outcome) for outcome in outcomes[1:]] == [ValueError, ValueError]
