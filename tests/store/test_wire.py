"""Invalid requests to every route: a 4xx that names the field, never a traceback, and an unchanged store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agentlightning.errors import (
    AgentLightningError,
    Conflict,
    FinalStatus,
    InvalidInput,
    NotFound,
    StaleAttempt,
    TooLarge,
)
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, Config, RolloutConfig, Span

from ..contract.making import claimed, everything
from .raw import ROUTES, SIGNATURES, Raw, RawResponse, plain_path, send_bytes

PATHS = """
POST /start_rollout
POST /enqueue_rollout
POST /enqueue_many_rollouts
POST /start_attempt
POST /query_rollouts
POST /add_resources
POST /update_resources
POST /add_span
POST /add_many_spans
POST /wait_for_rollouts
POST /update_rollout
POST /update_attempt
POST /update_worker
POST /query_workers
POST /query_resources
GET /dequeue_rollout
GET /query_attempts/{rollout_id}
GET /get_latest_attempt/{rollout_id}
GET /get_rollout_by_id/{rollout_id}
GET /get_resources_by_id/{resources_id}
GET /get_latest_resources
GET /get_next_span_sequence_id/{rollout_id}/{attempt_id}
GET /query_spans/{rollout_id}
GET /get_worker_by_id/{worker_id}
GET /statistics
"""

POSTS = [name for name, route in ROUTES.items() if route.method == "POST"]

ANY_JSON = {"input", "metadata", "heartbeat_stats", "about"}
"""Parameters that take any JSON, or any JSON object."""


class ServedStore:
    """A store server with a running and a queued rollout."""

    store: InMemoryLightningStore
    server: LightningStoreServer
    running: AttemptedRollout

    async def start(self) -> None:
        self.store = InMemoryLightningStore()
        self.server = LightningStoreServer(self.store, port=0)
        await self.server.start()
        await self.store.update_resources("rs-mine", {"config": Config(value=1)})
        config = RolloutConfig(unresponsive_seconds=3600)  # the module's tests send no heartbeats
        self.running = await claimed(self.store, worker_id="worker-1", config=config)
        await self.store.update_attempt(self.running.rollout_id, "latest", status="running")
        await self.store.enqueue_rollout("queued")

    async def stop(self) -> None:
        await self.server.stop()
        await self.store.close()

    @property
    def span(self) -> dict[str, Any]:
        rollout_id, attempt_id = self.running.rollout_id, self.running.attempt.attempt_id
        ids = {"rollout_id": rollout_id, "attempt_id": attempt_id, "trace_id": "ab" * 16, "span_id": "cd" * 8}
        return Span.model_validate({**ids, "name": "step"}).model_dump()

    def valid_arguments(self, name: str) -> dict[str, Any]:
        """Return the required arguments of an operation."""
        values: dict[str, Any] = {
            "rollout_id": self.running.rollout_id,
            "attempt_id": self.running.attempt.attempt_id,
            "resources_id": "rs-mine",
            "worker_id": "worker-1",
            "name": "trainer",
            "holder": "process-1",
            "input": {"question": "why?"},
            "rollouts": [{"input": 1}],
            "rollout_ids": [self.running.rollout_id],
            "timeout": 0,
            "resources": {"prompt": "Hello", "config": {"resource_type": "config", "value": 1}},
            "span": self.span,
            "spans": [self.span],
            "rollout_attempt_ids": [[self.running.rollout_id, self.running.attempt.attempt_id]],
        }
        required = [each.name for each in SIGNATURES[name].values() if each.default is each.empty]
        return {name: values[name] for name in required} | ({"timeout": 0} if name == "wait_for_rollouts" else {})


@pytest.fixture(scope="module")
def served() -> Iterator[ServedStore]:
    """One store for all tests of the module: rejected requests leave no trace in it."""
    served = ServedStore()
    asyncio.run(served.start())
    yield served
    asyncio.run(served.stop())


@pytest.fixture
async def raw(served: ServedStore) -> AsyncIterator[Raw]:
    """A client whose requests must leave the store unchanged and readable."""
    before = await everything(served.store)
    async with Raw(served.server.endpoint) as raw:
        yield raw
    async with LightningStoreClient(served.server.endpoint) as client:
        assert await everything(client) == before


def assert_rejected(answer: RawResponse, *fields: str, status: int | None = None, of: str = "") -> None:
    """Assert that an answer is problem+json that names one of the fields."""
    problem = answer.json
    assert 400 <= answer.status < 500, (of, answer)
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert problem["status"] == answer.status
    assert {"type", "title", "detail"} <= set(problem)
    assert status is None or answer.status == status, (of, answer)
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert not fields or any(field in f"{problem.get('field')} {problem['detail']}" for field in fields), (of, answer)


# Routes and their description


def test_routes_are_those_of_the_published_api() -> None:
    routes = {f"{route.method} {route.path}" for route in ROUTES.values()}

    assert set(PATHS.split("\n")) - {""} <= routes


async def test_openapi_describes_every_route(raw: Raw) -> None:
    document = (await raw.send("GET", "/openapi.json")).json

    assert document["openapi"].startswith("3.")
    assert {"/health", "/ready", "/v1/traces"} <= set(document["paths"])
    for name, route in ROUTES.items():
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["operationId"] == name
        parameters = {each["name"] for each in operation["parameters"]} - {"Idempotency-Key"}
        if body := operation.get("requestBody"):
            schema = body["content"]["application/json"]["schema"]
            parameters |= set(resolve(document, schema)["properties"])
        assert parameters == set(SIGNATURES[name])
        assert "200" in operation["responses"]


async def test_openapi_references_resolve(raw: Raw) -> None:
    document = (await raw.send("GET", "/openapi.json")).json

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            resolve(document, value)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)

    walk(document)


def resolve(document: Any, schema: Any) -> Any:
    """Return a schema, or the one that it refers to."""
    if "$ref" not in schema:
        return schema
    found = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_health_checks_return_200(raw: Raw, path: str) -> None:
    assert (await raw.send("GET", path)).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_unknown_path_gets_404(raw: Raw, method: str) -> None:
    for path in (
        *("/nowhere", "/enqueue_rollout/x", "/enqueue_rollouts", "/query_spans", "/..%2f..%2fetc%2fpasswd"),
        *("/%00", "/%ff%fe", "/%zz", "//", "/" + "x" * 5_000),
    ):
        assert_rejected(await raw.send(method, path), status=404, of=path)


async def test_wrong_method_gets_405_with_the_allowed_one(raw: Raw) -> None:
    for route in ROUTES.values():
        for method in {"GET", "POST", "DELETE"} - {route.method}:
            answer = await raw.send(method, plain_path(route))
            assert_rejected(answer, route.method, status=405, of=route.path)
            assert route.method in answer.headers["Allow"]


# Bodies

INVALID_BODIES = [
    *(b" ", b"nope", b"{", b'{"input": 1', b"[]", b'"text"', b"null", b"1", b"\xff\xfe\x00", b"\x1f\x8b junk"),
    *(b"[" * 100_000, b'{"a":' * 50_000, b'{"input": "line\nbreak"}', b"{'input': 1}", b"{} {}"),
]


@pytest.mark.parametrize("name", ["enqueue_rollout", "add_span", "add_many_spans"])
async def test_body_other_than_a_json_object_is_rejected(raw: Raw, name: str) -> None:
    for body in INVALID_BODIES:
        answer = await raw.send("POST", ROUTES[name].path, body)
        assert_rejected(answer, *SIGNATURES[name], "body", "JSON", of=repr(body[:12]))


async def test_every_route_rejects_invalid_bodies(raw: Raw) -> None:
    for name in POSTS:
        for body in (b"nope", b"[]"):
            answer = await raw.send("POST", ROUTES[name].path, body)
            assert_rejected(answer, *SIGNATURES[name], "body", "JSON", of=name)


async def test_body_with_unsupported_encoding_is_rejected(raw: Raw) -> None:
    assert_rejected(await raw.send("POST", "/enqueue_rollout", b"\x1f\x8b\x08 junk", Content_Encoding="gzip"))


async def test_unknown_field_is_named(served: ServedStore, raw: Raw) -> None:
    for name in ROUTES:
        answer = await raw.call(name, {**served.valid_arguments(name), "nonsense": 1})
        assert_rejected(answer, "nonsense", status=422, of=name)


async def test_missing_field_is_named(served: ServedStore, raw: Raw) -> None:
    for name in POSTS:
        valid = served.valid_arguments(name)
        for parameter in SIGNATURES[name].values():
            if parameter.default is parameter.empty:
                rest = {key: value for key, value in valid.items() if key != parameter.name}
                assert_rejected(await raw.call(name, rest), parameter.name, status=422, of=name)


async def test_field_of_the_wrong_type_is_named(served: ServedStore, raw: Raw) -> None:
    for name in POSTS:
        valid = served.valid_arguments(name)
        for parameter in set(SIGNATURES[name]) - {"input"}:
            wrong: list[Any] = (
                ["nonsense", 12.5] if parameter in ANY_JSON | {"resources"} else [{"non": ["sense"]}, [[1]]]
            )
            for value in wrong:
                assert_rejected(await raw.call(name, {**valid, parameter: value}), parameter, status=422, of=name)


INVALID_VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("enqueue_rollout", {"input": 1, "mode": "training"}, "mode"),
    ("enqueue_rollout", {"input": 1, "config": {"max_attempts": 0}}, "max_attempts"),
    ("enqueue_rollout", {"input": 1, "config": {"timeout_seconds": -1}}, "timeout_seconds"),
    ("enqueue_rollout", {"input": 1, "config": {"retry_condition": ["cancelled"]}}, "retry_condition"),
    ("enqueue_rollout", {"input": 1, "config": {"retries": 2}}, "retries"),
    ("enqueue_many_rollouts", {"rollouts": [{"input": 1}, {"mode": "val"}]}, "input"),
    ("enqueue_many_rollouts", {"rollouts": [{"input": 1, "nonsense": 1}]}, "nonsense"),
    ("enqueue_many_rollouts", {"rollouts": {"input": 1}}, "rollouts"),
    ("update_attempt", {"rollout_id": "ro-1", "attempt_id": "latest", "status": "cancelled"}, "status"),
    ("update_rollout", {"rollout_id": "ro-1", "status": "done"}, "status"),
    ("update_worker", {"worker_id": "w", "attempts": [{"rollout_id": "ro-1"}]}, "attempt"),
    ("update_worker", {"worker_id": "w", "attempts": ["at-1"]}, "attempt"),
    ("update_worker", {"worker_id": "bad\nname"}, "worker_id"),
    ("update_worker", {"worker_id": "x" * 10_000}, "worker_id"),
    ("update_resources", {"resources_id": "bad\x00name", "resources": {}}, "resources_id"),
    ("add_resources", {"resources": {"plain": {"temperature": 0.5}}}, "plain"),
    ("add_resources", {"resources": {"odd": {"resource_type": "nonsense"}}}, "odd"),
    ("add_resources", {"resources": {"llm": {"resource_type": "llm", "model": "m"}}}, "endpoint"),
    ("add_resources", {"resources": {"number": 1}}, "number"),
    ("query_rollouts", {"status_in": ["done"]}, "status_in"),
    ("query_rollouts", {"sort_by": "nonsense"}, "sort_by"),
    ("query_rollouts", {"sort_by": "start_time; DROP TABLE rollouts"}, "sort_by"),
    ("query_rollouts", {"filter_logic": "xor"}, "filter_logic"),
    ("query_rollouts", {"limit": -2}, "limit"),
    ("query_rollouts", {"limit": 1.5}, "limit"),
    ("query_rollouts", {"limit": 10**30}, "limit"),
    ("query_rollouts", {"offset": -1}, "offset"),
    ("query_resources", {"sort_by": "nonsense"}, "sort_by"),
    ("query_workers", {"sort_by": "nonsense"}, "sort_by"),
    ("query_workers", {"status_in": "idle"}, "status_in"),
    ("query_attempts", {"rollout_id": "ro-1", "sort_by": "nonsense"}, "sort_by"),
    ("query_attempts", {"rollout_id": "ro-1", "limit": "many"}, "limit"),
    ("query_spans", {"rollout_id": "ro-1", "sort_by": "nonsense"}, "sort_by"),
    ("query_spans", {"rollout_id": "ro-1", "sort_order": "sideways"}, "sort_order"),
    ("query_spans", {"rollout_id": "ro-1", "filter_logic": "xor"}, "filter_logic"),
    ("query_spans", {"rollout_id": "ro-1", "offset": "x"}, "offset"),
    ("get_resources_by_id", {"resources_id": "rs-mine", "version": "newest"}, "version"),
    ("dequeue_rollout", {"wait": "long"}, "wait"),
    ("dequeue_rollout", {"wait": "nan"}, "wait"),
    ("dequeue_rollout", {"worker_id": "bad\nname"}, "worker_id"),
    ("dequeue_many_rollouts", {"limit": "all"}, "limit"),
    ("wait_for_rollouts", {"rollout_ids": ["ro-1"], "timeout": "long"}, "timeout"),
    ("wait_for_rollouts", {"rollout_ids": "ro-1", "timeout": 0}, "rollout_ids"),
    ("get_many_span_sequence_ids", {"rollout_attempt_ids": [["ro-1"]]}, "rollout_attempt_ids"),
    ("get_many_span_sequence_ids", {"rollout_attempt_ids": [["ro-1", "at-1", "x"]]}, "rollout_attempt_ids"),
]  # fmt: skip


async def test_invalid_value_is_named(raw: Raw) -> None:
    for name, arguments, field in INVALID_VALUES:
        assert_rejected(await raw.call(name, arguments), field, status=422, of=f"{name} {arguments}")


INVALID_SPAN_FIELDS: list[tuple[str, Any]] = [
    ("name", None), ("name", 1), ("name", ["step"]), ("trace_id", 1), ("span_id", None), ("span_id", "line\nbreak"),
    ("span_id", "x" * 10_000), ("sequence_id", -1), ("sequence_id", "first"), ("sequence_id", 2**70),
    ("attributes", None), ("attributes", ["a"]), ("attributes", "a"), ("status", "OK"), ("status", None),
    ("status", {"status_code": "FINE"}), ("events", {}), ("events", [{}]), ("events", ["e"]), ("links", [{}]),
    ("links", [{"context": {}}]), ("start_time", "noon"), ("end_time", [1]), ("context", "c"), ("parent", {}),
    ("resource", "r"), ("resource", {"attributes": []}), ("rollout_id", None), ("attempt_id", 5),
]  # fmt: skip


@pytest.mark.parametrize("name", ["add_span", "add_many_spans"])
async def test_span_with_an_invalid_field_is_rejected(served: ServedStore, raw: Raw, name: str) -> None:
    for field, value in INVALID_SPAN_FIELDS:
        span = {**served.span, field: value}
        assert_rejected(await raw.call(name, span_arguments(name, span)), field, status=422, of=f"{field}={value}")
    for field in ("rollout_id", "attempt_id", "trace_id", "span_id", "name"):
        span = {key: value for key, value in served.span.items() if key != field}
        assert_rejected(await raw.call(name, span_arguments(name, span)), field, status=422, of=field)


def span_arguments(name: str, span: dict[str, Any]) -> dict[str, Any]:
    return {"span": span} if name == "add_span" else {"spans": [span]}


UNSOUND_JSON = {
    "NaN": "NaN",
    "Infinity": "[-Infinity]",
    "too large a number": "1e999",
    "more than 64 bits": "[18446744073709551616]",
    "surrogate": '"\\ud800"',
    "surrogate key": '{"\\udfff": 1}',
    "depth": "[" * 65 + "0" + "]" * 65,
    "depth of objects": '{"k":' * 65 + "0" + "}" * 65,
}


def body_with(arguments: dict[str, Any], unsound: str) -> bytes:
    """Return a body in which unsound JSON replaces the placeholder."""
    return json.dumps(arguments).replace('"PLACEHOLDER"', unsound).encode()


async def test_unsound_json_is_rejected_in_every_parameter(served: ServedStore, raw: Raw) -> None:
    for name in POSTS:
        valid = served.valid_arguments(name)
        for parameter in [*SIGNATURES[name], "nonsense"]:
            for unsound in ("NaN", '"\\ud800"'):
                body = body_with({**valid, parameter: "PLACEHOLDER"}, unsound)
                assert_rejected(await raw.send("POST", ROUTES[name].path, body), parameter, "body", of=name)


@pytest.mark.parametrize("kind", UNSOUND_JSON)
async def test_unsound_json_is_rejected_inside_values(served: ServedStore, raw: Raw, kind: str) -> None:
    span = served.span
    config = {"resource_type": "config", "value": "PLACEHOLDER"}

    for name, arguments in [
        ("enqueue_rollout", {"input": "PLACEHOLDER"}),
        ("update_worker", {"worker_id": "worker-1", "heartbeat_stats": {"k": "PLACEHOLDER"}}),
        ("add_span", {"span": {**span, "attributes": {"k": ["PLACEHOLDER"]}}}),
        ("add_many_spans", {"spans": [span, {**span, "events": [{"name": "e", "attributes": {"k": "PLACEHOLDER"}}]}]}),
        ("add_span", {"span": {**span, "nonsense": "PLACEHOLDER"}}),
        ("add_resources", {"resources": {"bad": config}}),
        ("update_resources", {"resources_id": "rs-new", "resources": {"bad": config}}),
        ("enqueue_many_rollouts", {"rollouts": [{"input": 1}, {"input": {"k": "PLACEHOLDER"}}]}),
    ]:
        body = body_with(arguments, UNSOUND_JSON[kind])
        assert_rejected(await raw.send("POST", ROUTES[name].path, body), of=name)


# Sizes


@pytest.mark.parametrize("name", ["enqueue_rollout", "add_many_spans"])
async def test_body_of_twenty_megabytes_is_rejected_before_it_is_read(served: ServedStore, raw: Raw, name: str) -> None:
    head = f"POST {ROUTES[name].path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"

    answer = await send_bytes(served.server.endpoint, head.encode() + b'{"input": "xxx')

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


async def test_body_of_unknown_length_is_rejected_at_the_limit(served: ServedStore, raw: Raw) -> None:
    head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"

    answer = await send_bytes(served.server.endpoint, head + b"A\r\n" + b'{"input": ' + b"\r\n" + chunk * 17)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_body_just_within_the_limit_is_accepted(raw: Raw) -> None:
    answer = await raw.call("query_rollouts", {"rollout_id_in": ["x" * 1_000] * 15_000})

    assert (answer.status, answer.json["items"]) == (200, [])


@pytest.mark.parametrize(
    "sent",
    [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00", b"GET / HTTP/9.9\r\n\r\n",
     b"POST /enqueue_rollout HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
     b"POST /enqueue_rollout HTTP/1.1\r\nContent-Length: many\r\n\r\n"],
    ids=lambda sent: repr(sent[:10]),
)  # fmt: skip
async def test_invalid_http_is_refused(served: ServedStore, raw: Raw, sent: bytes) -> None:
    answer = await send_bytes(served.server.endpoint, sent)

    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")
    assert b"Traceback" not in answer


async def test_long_idempotency_key_is_named(raw: Raw) -> None:
    answer = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="x" * 5_000)

    assert_rejected(answer, "Idempotency-Key", status=422)


# Unknown ids


async def test_change_of_an_unknown_id_gets_404(served: ServedStore, raw: Raw) -> None:
    for name in [name for name, route in ROUTES.items() if route.mutates and name != "update_resources"]:
        for parameter in {"rollout_id", "attempt_id", "resources_id"} & set(SIGNATURES[name]):
            answer = await raw.call(name, {**served.valid_arguments(name), parameter: "xx-unknown"})
            assert_rejected(answer, "xx-unknown", status=404, of=name)
    for name in ("add_span", "add_many_spans"):
        for parameter in ("rollout_id", "attempt_id"):
            arguments = span_arguments(name, {**served.span, parameter: "xx-unknown"})
            assert_rejected(await raw.call(name, arguments), "xx-unknown", status=404, of=name)


async def test_wait_for_an_unknown_rollout_gets_404(raw: Raw) -> None:
    assert_rejected(await raw.call("wait_for_rollouts", {"rollout_ids": ["ro-unknown"]}), "ro-unknown", status=404)


async def test_query_of_an_unknown_id_returns_nothing(raw: Raw) -> None:
    for name, route in ROUTES.items():
        if route.path_parameters and not route.mutates:
            answer = await raw.call(name, dict.fromkeys(route.path_parameters, "xx-unknown"))

            assert (name, answer.status) == (name, 200)
            assert answer.json is None or answer.json["items"] == []


# Errors in the client


async def test_client_raises_the_errors_of_the_store(served: ServedStore) -> None:
    first = await served.store.start_rollout("task")
    second = await served.store.start_attempt(first.rollout_id)
    over = await served.store.start_rollout("over")
    await served.store.update_rollout(over.rollout_id, status="cancelled")
    queued = await served.store.enqueue_rollout("queued")

    async def errors(store: LightningStore) -> list[AgentLightningError]:
        caught: list[AgentLightningError] = []
        for call in [
            lambda: store.update_rollout("ro-unknown", status="cancelled"),
            lambda: store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded"),
            lambda: store.update_attempt(over.rollout_id, over.attempt.attempt_id, status="succeeded"),
            lambda: store.update_rollout(queued.rollout_id, status="running"),
            lambda: store.query_rollouts(sort_by="nonsense"),
            lambda: store.update_worker("bad\nname"),
        ]:
            with pytest.raises(AgentLightningError) as error:
                await call()
            caught.append(error.value)
        return caught

    async with LightningStoreClient(served.server.endpoint) as client:
        local, remote = await errors(served.store), await errors(client)

    types = [NotFound, StaleAttempt, FinalStatus, Conflict, InvalidInput, InvalidInput]
    assert [type(error) for error in local] == types
    assert [(type(error), str(error), error.field) for error in remote] == [
        (type(error), str(error), error.field) for error in local
    ]
    assert await served.store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")


async def test_client_raises_too_large(served: ServedStore) -> None:
    async with LightningStoreClient(served.server.endpoint) as client:
        with pytest.raises(TooLarge):
            await client.enqueue_rollout("x" * 20_000_000)
