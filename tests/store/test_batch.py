"""`POST /batch`: each operation succeeds or fails on its own; the client batches concurrent calls."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.http.messages import MAX_BATCH_SIZE
from agentlightning.store.http.transport import MAX_IN_FLIGHT, Outcome, RequestBatcher, StoreCall
from agentlightning.store.operations import operation_table

from ..contract.making import LONG_WAIT
from ..faults.lossy import served
from .raw import Raw, RawResponse


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


async def batch(server: LightningStoreServer, *operations: dict[str, Any], **headers: str) -> RawResponse:
    async with Raw(server.endpoint) as raw:
        return await raw.send("POST", "/batch", json.dumps({"operations": operations}).encode(), **headers)


async def test_each_operation_has_its_own_answer(server: LightningStoreServer) -> None:
    rollout = await server.enqueue_rollout("known")

    answer = await batch(
        server,
        {"operation": "enqueue_rollout", "arguments": {"input": "new"}},
        {"operation": "get_rollout_by_id", "arguments": {"rollout_id": rollout.rollout_id}},
        {"operation": "update_rollout", "arguments": {"rollout_id": "ro-unknown", "status": "cancelled"}},
        {"operation": "enqueue_rollout", "arguments": {"input": 1, "mode": "wrong"}},
    )

    created, found, unknown, invalid = answer.json["answers"]
    assert answer.status == 200
    assert (created["status"], created["body"]["input"]) == (200, "new")
    assert (found["status"], found["body"]["input"]) == (200, "known")
    assert (unknown["status"], unknown["body"]["field"]) == (404, "rollout_id")
    assert (invalid["status"], invalid["body"]["field"]) == (422, "mode")
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
async def test_operation_not_allowed_in_a_batch_is_rejected_alone(
    server: LightningStoreServer, operation: dict[str, Any], field: str
) -> None:
    answer = await batch(server, operation, {"operation": "enqueue_rollout", "arguments": {"input": "valid"}})

    rejected, created = answer.json["answers"]
    assert (rejected["status"], rejected["body"]["field"]) == (422, field)
    assert created["status"] == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"operations": [1]}', b'{"operations": [{}]}', b"\xff"])
async def test_body_other_than_a_batch_is_rejected_as_a_whole(server: LightningStoreServer, body: bytes) -> None:
    async with Raw(server.endpoint) as raw:
        answer = await raw.send("POST", "/batch", body)

    assert (answer.status, answer.json["field"]) == (422, "body")


async def test_batch_beyond_the_maximum_size_is_rejected(server: LightningStoreServer) -> None:
    operation = {"operation": "enqueue_rollout", "arguments": {"input": 1}}
    answer = await batch(server, *[operation] * (MAX_BATCH_SIZE + 1))

    assert (answer.status, answer.json["field"]) == (422, "operations")
    assert (await server.query_rollouts()).total == 0


async def test_operation_repeated_under_its_key_is_executed_once(server: LightningStoreServer) -> None:
    call = {"operation": "enqueue_rollout", "arguments": {"input": 1}, "idempotency_key": "mine"}

    first = (await batch(server, call)).json["answers"]
    async with Raw(server.endpoint) as raw:
        alone = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
    again = (await batch(server, call)).json["answers"]

    assert first == again
    assert alone.json == first[0]["body"]
    assert (await server.query_rollouts()).total == 1


async def test_each_operation_is_logged_and_counted(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "agentlightning.store.access"):
        await batch(
            server,
            {"operation": "enqueue_rollout", "arguments": {"input": 1}},
            {"operation": "update_rollout", "arguments": {"rollout_id": "ro-unknown"}},
            {"operation": "get_rollout_by_id", "arguments": {"rollout_id": "ro-unknown"}},
            {"operation": "no\nsuch"},
        )
        async with Raw(server.endpoint) as raw:
            metrics = (await raw.send("GET", "/metrics")).text
        await server.stop()  # the log lines follow the answers

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split('"')[1] for line in lines[:4]] == [
        "POST /enqueue_rollout HTTP/1.1",
        "POST /update_rollout HTTP/1.1",
        "GET /get_rollout_by_id HTTP/1.1",
        "POST /batch HTTP/1.1",
    ]
    assert 'agl_requests_total{operation="update_rollout",status="404"} 1' in metrics


async def test_concurrent_calls_share_one_connection(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        with caplog.at_level(logging.INFO, "agentlightning.store.access"):
            rollouts = await asyncio.gather(*(client.enqueue_rollout(number) for number in range(40)))
            await server.stop()  # the log lines follow the answers

    connections = {record.getMessage().split()[0] for record in caplog.records}
    assert sorted(rollout.input for rollout in rollouts) == list(range(40))
    assert len(caplog.records) == 40
    assert len(connections) == 1


# The batcher


def call(number: int) -> StoreCall:
    operation = operation_table()["enqueue_rollout"]
    return StoreCall(operation, {"input": number}, "/enqueue_rollout", {}, None, None, 0.0)


class BatchServer:
    """Records the inputs of each request, and answers while `may_answer` is set."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[list[int]] = asyncio.Queue()
        self.may_answer = asyncio.Event()
        self.batcher = RequestBatcher(self.send_alone, self.send_batch)

    async def send_alone(self, call: StoreCall) -> Outcome:
        return (await self.send_batch([call]))[0]

    async def send_batch(self, calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        self.requests.put_nowait([call.arguments["input"] for call in calls])
        await self.may_answer.wait()
        return [(200, b"%d" % call.arguments["input"]) for call in calls]

    def send(self, *numbers: int) -> list[asyncio.Task[Outcome]]:
        return [asyncio.create_task(self.batcher.send(call(number))) for number in numbers]

    async def next_request(self) -> list[int]:
        return await asyncio.wait_for(self.requests.get(), LONG_WAIT)

    async def fill(self) -> list[asyncio.Task[Outcome]]:
        """Send as many requests as may be in flight before calls gather."""
        sent: list[asyncio.Task[Outcome]] = []
        for number in range(MAX_IN_FLIGHT):
            sent += self.send(number)
            assert await self.next_request() == [number]
        return sent


async def test_calls_are_batched_while_requests_are_in_flight() -> None:
    server = BatchServer()
    sent = [*await server.fill(), *server.send(7, 8, 9)]
    server.may_answer.set()

    answers = await asyncio.gather(*sent)

    assert await server.next_request() == [7, 8, 9]
    assert answers == [(200, b"0"), (200, b"1"), (200, b"7"), (200, b"8"), (200, b"9")]


async def test_slow_request_does_not_hold_back_others() -> None:
    server = BatchServer()
    sent = [*await server.fill(), *server.send(7)]

    assert await server.next_request() == [7]
    assert not any(task.done() for task in sent)
    server.may_answer.set()
    await asyncio.gather(*sent)


async def test_call_of_a_cancelled_caller_is_not_sent() -> None:
    server = BatchServer()
    sent = await server.fill()
    cancelled, kept = server.send(7, 8)
    await asyncio.sleep(0)
    cancelled.cancel()
    server.may_answer.set()

    assert await kept == (200, b"8")
    assert await server.next_request() == [8]
    await asyncio.gather(*sent)


async def test_every_call_of_a_batch_gets_the_error_of_an_unavailable_store() -> None:
    async def send_alone(_: StoreCall) -> Outcome:
        return StoreUnavailable("unreachable")

    async def send_batch(calls: Sequence[StoreCall]) -> Sequence[Outcome]:
        return [StoreUnavailable("unreachable")] * len(calls)

    batcher = RequestBatcher(send_alone, send_batch)

    outcomes = await asyncio.gather(*(batcher.send(call(number)) for number in range(3)))

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3


async def test_missing_answers_are_errors_of_their_calls() -> None:
    async def send_alone(_: StoreCall) -> Outcome:
        return 200, b"1"

    async def send_batch(_: Sequence[StoreCall]) -> Sequence[Outcome]:
        return [(200, b"1")]

    batcher = RequestBatcher(send_alone, send_batch)

    outcomes = await asyncio.gather(*(batcher.send(call(n)) for n in range(3)), return_exceptions=True)

    assert outcomes[0] == (200, b"1")
    assert [type(outcome) for outcome in outcomes[1:]] == [ValueError, ValueError]
