"""Limits of JSON bodies: small bodies that decode to millions of objects, and nesting that a repeated key hides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from agentlightning.errors import InvalidInput, TooLarge
from agentlightning.http.limits import Limits
from agentlightning.payload import MAX_VALUES, check_size, loads
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.encoded_span import encode, primary_reward
from agentlightning.types import AttemptedRollout, Span

from ..contract.making import span
from ..faults.lossy import served
from ..timing import quickest
from .raw import Raw

MILLIONS = 3_000_000
IDS: Any = {"rollout_id": "ro", "attempt_id": "at"}
SPAN: Any = {"rollout_id": "ro", "attempt_id": "at", "trace_id": "ab" * 16, "span_id": "cd" * 8, "name": "step"}
REFUSED = {
    "lists": ("enqueue_rollout", b'{"input":[' + b"[]," * MILLIONS + b"[]]}"),
    "objects": ("add_resources", b'{"resources":{"a":[' + b"{}," * MILLIONS + b"{}]}}"),
    "numbers": ("add_span", b'{"span":[' + b"1," * MILLIONS + b"1]}"),
    "operations": ("batch", b'{"operations":[' + b'{"operation":"summary"},' * 400_000 + b"{}]}"),
    "invalid items": ("enqueue_many_rollouts", b'{"rollouts":[' + b"1," * 400_000 + b"1]}"),
    "invalid ids": ("wait_for_rollouts", b'{"rollout_ids":[' + b"1," * 400_000 + b"1]}"),
    "invalid events": ("add_span", orjson.dumps({"span": {**SPAN, "events": [1] * 400_000}})),
    "unknown parameters": ("enqueue_rollout", orjson.dumps({f"k{number}": 1 for number in range(100_000)})),
    "unknown settings": (
        "enqueue_rollout",
        orjson.dumps({"input": 1, "config": {f"k{number}": 1 for number in range(50_000)}}),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_many_values_are_refused_with_little_cpu_time(kind: str) -> None:
    name, body = REFUSED[kind]
    async with served(InMemoryLightningStore()) as server, Raw(server.endpoint) as raw:

        async def seconds() -> float:
            started = time.process_time()
            assert (await raw.send("POST", f"/{name}", body)).status in (413, 422)
            return time.process_time() - started

        assert await quickest(seconds, 0.1) < 0.4


def test_values_are_counted_outside_of_strings_only() -> None:
    text = orjson.dumps(['[{,\\"' * MAX_VALUES, ",\\", '"', "[" * MAX_VALUES])

    assert loads(text) == orjson.loads(text)
    for sliced in (b'["' + b"x" * 262_141 + b'",' + b"1," * 10, b'["' + b"x" * 262_142 + b'",' + b"1," * 10):
        check_size(sliced, values=13)
        with pytest.raises(TooLarge, match="limit values"):
            check_size(sliced, values=11)


@pytest.mark.parametrize("text", [b'"' * MILLIONS, b'\\"' * MILLIONS, b'"\\' * MILLIONS, b'[",' * MILLIONS])
def test_counting_values_of_malformed_text_takes_linear_time(text: bytes) -> None:
    started = time.thread_time()
    with pytest.raises(InvalidInput):
        loads(text)
    assert time.thread_time() - started < 0.5


async def test_limit_on_values_can_be_set() -> None:
    async with served(InMemoryLightningStore(), limits=Limits(values=10)) as server, Raw(server.endpoint) as raw:
        assert (await raw.call("enqueue_rollout", {"input": list(range(5))})).status == 200
        answer = await raw.call("enqueue_rollout", {"input": list(range(20))})
        assert (answer.status, "limit values" in answer.text) == (413, True)
        batch = {"operations": [{"operation": "enqueue_rollout", "arguments": {"input": list(range(20))}}]}
        assert (await raw.send("POST", "/batch", orjson.dumps(batch))).status == 413


def test_json_text_in_an_attribute_of_a_span_is_not_decoded_in_search_of_a_reward() -> None:
    output = '{"type": "reward", "value": 1, "more": [' + "[]," * MILLIONS + "[]]}"
    [large] = encode([Span.from_attributes(attributes={"agentops.task.output": output}, **IDS)])
    [small] = encode([Span.from_attributes(attributes={"agentops.task.output": '{"type":"reward","value":1}'}, **IDS)])

    assert (primary_reward(large), primary_reward(small)) == (None, 1.0)


# Nesting


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def spans(attempted: AttemptedRollout, attributes: bytes) -> list[bytes]:
    def encoded(number: int) -> bytes:
        return orjson.dumps(span(attempted, number).model_dump() | {"attributes": {"a": "HERE"}})

    return [encoded(number).replace(b'"HERE"', attributes) for number in (1, 2)]


BODIES: dict[str, Callable[[AttemptedRollout, bytes], bytes]] = {
    "add_span": lambda attempted, value: b'{"span":' + spans(attempted, value)[0] + b"}",
    "add_many_spans": lambda attempted, value: b'{"spans":[' + b",".join(spans(attempted, value)) + b"]}",
    "enqueue_rollout": lambda _, value: b'{"input":' + value + b"}",
    "enqueue_many_rollouts": lambda _, value: b'{"rollouts":[{"input":1,"metadata":' + value + b"}]}",
    "add_resources": lambda _, value: b'{"resources":{"a":{"resource_type":"config","value":' + value + b"}}}",
    "update_attempt": lambda attempted, value: (
        b'{"rollout_id":"%b","attempt_id":"%b","metadata":%b}'
        % (attempted.rollout_id.encode(), attempted.attempt.attempt_id.encode(), value)
    ),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("depth", [100, 250, 1_000, 1_500, 100_000])
async def test_deep_values_get_422_and_hidden_ones_are_not_stored(name: str, in_batch: bool, depth: int) -> None:
    deep = nested(depth)
    hidden = b'{"a":%b,"a":1}' % deep
    with_float = b'{"a":%b,"a":1e300}' % deep
    async with InMemoryLightningStore() as store, served(store) as server, Raw(server.endpoint) as raw:
        attempted = await store.start_rollout("task")

        async def status(value: bytes) -> int:
            body = BODIES[name](attempted, value)
            if not in_batch:
                return (await raw.send("POST", f"/{name}", body)).status
            batch = b'{"operations":[{"operation":"%b","arguments":%b}]}' % (name.encode(), body)
            answer = await raw.send("POST", "/batch", batch)
            return answer.json["answers"][0]["status"] if answer.status == 200 else answer.status

        assert await status(deep) == 422
        assert await status(with_float) in (200, 422)
        assert await status(hidden) in (200, 422)
        for stored in [item.model_dump_json() for item in await store.query_spans(attempted.rollout_id)]:
            Span.model_validate_json(stored)
        for listing in ("query_rollouts", "query_resources", "query_attempts", "query_spans"):
            arguments = {"rollout_id": attempted.rollout_id} if listing in ("query_attempts", "query_spans") else {}
            answer = await raw.call(listing, arguments)
            assert (answer.status, b'{"a":{"a":{"a"' in answer.text.encode()) == (200, False)


@pytest.mark.parametrize(
    "number", [b"1e400", b"-1e400", b"9" * 100_000, b"1e" + b"9" * 100_000, b"9" * 300, b"18446744073709551616"]
)
async def test_numbers_that_cannot_be_represented_get_422_quickly(number: bytes) -> None:
    async with served(InMemoryLightningStore()) as server, Raw(server.endpoint) as raw:
        started = time.process_time()
        assert (await raw.send("POST", "/enqueue_rollout", b'{"input":' + number + b"}")).status == 422
        assert time.process_time() - started < 0.3
