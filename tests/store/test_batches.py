"""Several operations in one request: each is carried out, answered and refused for itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.http.batching import MOST_UNDER_WAY, Carried, Carrier, Outgoing
from agentlightning.store.operations import table

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


async def test_each_operation_is_answered_for_itself(server: LightningStoreServer) -> None:
    rollout = await server.enqueue_rollout("known")

    answer = await batch(
        server,
        {"operation": "enqueue_rollout", "arguments": {"input": "new"}},
        {"operation": "get_rollout_by_id", "arguments": {"rollout_id": rollout.rollout_id}},
        {"operation": "update_rollout", "arguments": {"rollout_id": "nobody", "status": "cancelled"}},
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
async def test_what_does_not_travel_with_others_is_refused_alone(
    server: LightningStoreServer, operation: dict[str, Any], field: str
) -> None:
    answer = await batch(server, operation, {"operation": "enqueue_rollout", "arguments": {"input": "beside it"}})

    refused, made = answer.json["answers"]
    assert (refused["status"], refused["body"]["field"]) == (422, field)
    assert made["status"] == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"operations": [1]}', b'{"operations": [{}]}', b"\xff"])
async def test_what_is_no_batch_is_refused_as_a_whole(server: LightningStoreServer, body: bytes) -> None:
    async with Raw(server.endpoint) as raw:
        answer = await raw.send("POST", "/batch", body)

    assert (answer.status, answer.json["field"]) == (422, "body")


async def test_too_many_operations_are_refused(server: LightningStoreServer) -> None:
    answer = await batch(server, *[{"operation": "enqueue_rollout", "arguments": {"input": 1}}] * 257)

    assert (answer.status, answer.json["field"]) == (422, "operations")
    assert (await server.query_rollouts()).total == 0


async def test_an_operation_under_the_same_key_happens_once(server: LightningStoreServer) -> None:
    call = {"operation": "enqueue_rollout", "arguments": {"input": 1}, "idempotency_key": "mine"}

    first = (await batch(server, call)).json["answers"]
    async with Raw(server.endpoint) as raw:
        alone = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="mine")
    again = (await batch(server, call)).json["answers"]

    assert first == again
    assert alone.json == first[0]["body"]
    assert (await server.query_rollouts()).total == 1


async def test_the_runners_token_opens_no_more_in_a_batch() -> None:
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


async def test_the_log_and_the_counters_know_each_operation(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "agentlightning.store.access"):
        await batch(
            server,
            {"operation": "enqueue_rollout", "arguments": {"input": 1}},
            {"operation": "update_rollout", "arguments": {"rollout_id": "nobody"}},
            {"operation": "get_rollout_by_id", "arguments": {"rollout_id": "nobody"}},
            {"operation": "no\nsuch"},
        )
        async with Raw(server.endpoint) as raw:
            counted = (await raw.send("GET", "/metrics")).text
        await server.stop()  # its lines follow its answers

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split('"')[1] for line in lines[:4]] == [
        "POST /enqueue_rollout HTTP/1.1",
        "POST /update_rollout HTTP/1.1",
        "GET /get_rollout_by_id HTTP/1.1",
        "POST /batch HTTP/1.1",
    ]
    assert 'agl_requests_total{operation="update_rollout",status="404"} 1' in counted


async def test_calls_made_at_the_same_time_travel_in_one_request(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        with caplog.at_level(logging.INFO, "agentlightning.store.access"):
            made = await asyncio.gather(*(client.enqueue_rollout(number) for number in range(40)))
            await server.stop()  # its lines follow its answers

    connections = {record.getMessage().split()[0] for record in caplog.records}
    assert sorted(rollout.input for rollout in made) == list(range(40))
    assert len(caplog.records) == 40
    assert len(connections) == 1


# The carrier


def outgoing(number: int) -> Outgoing:
    operation = table()["enqueue_rollout"]
    arguments = {"input": number}
    return Outgoing(operation, arguments, operation.request(arguments), None)


class Store:
    """Notes what travels; answers when it is let."""

    def __init__(self) -> None:
        self.journeys: asyncio.Queue[list[int]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.carrier = Carrier(self.alone, self.together)

    async def alone(self, call: Outgoing) -> Carried:
        return (await self.together([call]))[0]

    async def together(self, calls: Sequence[Outgoing]) -> Sequence[Carried]:
        self.journeys.put_nowait([call.arguments["input"] for call in calls])
        await self.open.wait()
        return [(200, b"%d" % call.arguments["input"]) for call in calls]

    def send(self, *numbers: int) -> list[asyncio.Task[Carried]]:
        return [asyncio.create_task(self.carrier.carry(outgoing(number))) for number in numbers]

    async def journey(self) -> list[int]:
        return await asyncio.wait_for(self.journeys.get(), 60)

    async def fill(self) -> list[asyncio.Task[Carried]]:
        """As many requests under way as go before calls gather."""
        sent: list[asyncio.Task[Carried]] = []
        for number in range(MOST_UNDER_WAY):
            sent += self.send(number)
            assert await self.journey() == [number]
        return sent


async def test_calls_gather_while_others_are_under_way() -> None:
    store = Store()
    sent = [*await store.fill(), *store.send(7, 8, 9)]
    store.open.set()

    answers = await asyncio.gather(*sent)

    assert await store.journey() == [7, 8, 9]
    assert answers == [(200, b"0"), (200, b"1"), (200, b"7"), (200, b"8"), (200, b"9")]


async def test_a_request_that_takes_long_holds_up_no_others() -> None:
    store = Store()
    stuck = await store.fill()
    stuck += store.send(7)

    assert await store.journey() == [7]
    assert not any(task.done() for task in stuck)
    store.open.set()
    await asyncio.gather(*stuck)


async def test_a_call_whose_caller_was_cancelled_does_not_leave() -> None:
    store = Store()
    sent = await store.fill()
    cancelled, kept = store.send(7, 8)
    await asyncio.sleep(0)
    cancelled.cancel()
    store.open.set()

    assert await kept == (200, b"8")
    assert await store.journey() == [8]
    await asyncio.gather(*sent)


async def test_a_store_that_is_away_is_away_for_each_of_them() -> None:
    async def away(calls: Sequence[Outgoing]) -> Sequence[Carried]:
        return [StoreUnavailable("away")] * len(calls)

    async def alone(call: Outgoing) -> Carried:
        return (await away([call]))[0]

    carrier = Carrier(alone, away)

    answers = await asyncio.gather(*(carrier.carry(outgoing(number)) for number in range(3)))

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3


async def test_a_short_answer_leaves_nobody_waiting() -> None:
    async def short(calls: Sequence[Outgoing]) -> Sequence[Carried]:
        return [(200, b"1")]

    async def alone(call: Outgoing) -> Carried:
        return 200, b"1"

    carrier = Carrier(alone, short)

    answers = await asyncio.gather(*(carrier.carry(outgoing(n)) for n in range(3)), return_exceptions=True)

    assert answers[0] == (200, b"1")
    assert [type(answer) for answer in answers[1:]] == [ValueError, ValueError]
