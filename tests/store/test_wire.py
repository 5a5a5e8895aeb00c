"""Bad input to every route: a 4xx that names the field, never a traceback, and the store goes on as it was."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agentlightning.errors import AgentLightningError, Conflict, FinalStatus, InvalidInput, NotFound, StaleAttempt
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, Config, RolloutConfig, Span

from ..contract.making import claimed, everything
from .raw import ROUTES, SIGNATURES, Answer, Raw, send_bytes

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
EVERY_ROUTE = pytest.mark.parametrize("name", ROUTES)
EVERY_POST = pytest.mark.parametrize("name", POSTS)

FREE = {"input", "metadata", "heartbeat_stats", "about"}
"""Parameters that take any JSON, or any JSON object."""


class Live:
    """A served store with one rollout of each kind in it."""

    store: InMemoryLightningStore
    server: LightningStoreServer
    running: AttemptedRollout

    async def start(self) -> None:
        self.store = InMemoryLightningStore()
        self.server = LightningStoreServer(self.store, port=0)
        await self.server.start()
        await self.store.update_resources("rs-mine", {"config": Config(value=1)})
        patient = RolloutConfig(unresponsive_seconds=3600)  # these tests take as long as they take
        self.running = await claimed(self.store, worker_id="worker-1", config=patient)
        await self.store.update_attempt(self.running.rollout_id, "latest", status="running")
        await self.store.enqueue_rollout("queued")

    async def stop(self) -> None:
        await self.server.stop()
        await self.store.close()

    def good(self, name: str) -> dict[str, Any]:
        """Arguments that the operation takes."""
        rollout_id, attempt_id = self.running.rollout_id, self.running.attempt.attempt_id
        span = Span(rollout_id=rollout_id, attempt_id=attempt_id, trace_id="ab" * 16, span_id="cd" * 8, name="step")
        resources = {"prompt": "Hello", "config": {"resource_type": "config", "value": 1}}
        values: dict[str, Any] = {
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "resources_id": "rs-mine",
            "worker_id": "worker-1",
            "name": "trainer",
            "holder": "somebody",
            "input": {"question": "why?"},
            "rollouts": [{"input": 1}],
            "rollout_ids": [rollout_id],
            "timeout": 0,
            "resources": resources,
            "span": span.model_dump(),
            "spans": [span.model_dump()],
            "rollout_attempt_ids": [[rollout_id, attempt_id]],
        }
        needed = [each.name for each in SIGNATURES[name].values() if each.default is each.empty]
        return {name: values[name] for name in needed} | ({"timeout": 0} if name == "wait_for_rollouts" else {})


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """One store for all of this file: nothing that is refused may leave a trace in it."""
    live = Live()
    asyncio.run(live.start())
    yield live
    asyncio.run(live.stop())


@pytest.fixture
async def raw(live: Live) -> AsyncIterator[Raw]:
    """Requests that are all refused: afterwards the store holds what it held, and lists it."""
    before = await everything(live.store)
    async with Raw(live.server.endpoint) as raw:
        yield raw
    async with LightningStoreClient(live.server.endpoint) as client:
        assert await everything(client) == before


def refused(answer: Answer, *fields: str, status: int | None = None) -> None:
    """`answer` is a problem that a client can read and a person can understand."""
    problem = answer.json
    assert 400 <= answer.status < 500, answer
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    assert problem["status"] == answer.status
    assert {"type", "title", "detail"} <= set(problem)
    assert status is None or answer.status == status, answer
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert not fields or any(field in f"{problem.get('field')} {problem['detail']}" for field in fields), answer


# The routes


def test_the_routes_are_those_of_the_published_surface() -> None:
    routes = {f"{route.method} {route.path}" for route in ROUTES.values()}

    assert set(PATHS.split("\n")) - {""} <= routes


@EVERY_ROUTE
async def test_every_route_is_described(live: Live, raw: Raw, name: str) -> None:
    described = (await raw.send("GET", "/openapi.json")).json
    route = ROUTES[name]

    operation = described["paths"][route.path][route.method.lower()]

    assert operation["operationId"] == name
    asked = {each["name"] for each in operation["parameters"]} - {"Idempotency-Key"}
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        asked |= set(resolved(described, schema)["properties"])
    assert asked == set(SIGNATURES[name])
    assert "200" in operation["responses"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/traces"])
async def test_what_is_not_an_operation_is_described_too(live: Live, raw: Raw, path: str) -> None:
    assert path in (await raw.send("GET", "/openapi.json")).json["paths"]


async def test_the_description_refers_only_to_what_it_holds(live: Live, raw: Raw) -> None:
    described = (await raw.send("GET", "/openapi.json")).json

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                resolved(described, value)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(described)
    assert described["openapi"].startswith("3.")


def resolved(described: Any, schema: Any) -> Any:
    """A schema, or the one that it refers to."""
    if "$ref" not in schema:
        return schema
    at = described
    for part in schema["$ref"].removeprefix("#/").split("/"):
        at = at[part]
    return at


async def test_the_store_says_that_it_is_well(live: Live, raw: Raw) -> None:
    for path in ("/health", "/ready"):
        assert (await raw.send("GET", path)).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/enqueue_rollout/x", "/enqueue_rollouts", "/query_spans", "/..%2f..%2fetc%2fpasswd",
             "/%00", "/%ff%fe", "/%zz", "//", "/" + "x" * 5_000]
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_what_is_nowhere_is_not_found(live: Live, raw: Raw, method: str, path: str) -> None:
    answer = await raw.send(method, path)

    if path != "/":  # where a page for people may be
        refused(answer, status=404)


@EVERY_ROUTE
async def test_another_method_is_not_allowed(live: Live, raw: Raw, name: str) -> None:
    route = ROUTES[name]
    path = route.path.replace("{", "").replace("}", "")

    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {route.method}:
        answer = await raw.send(method, path)
        refused(answer, route.method, status=405)
        assert route.method in answer.headers["Allow"]


# Bodies


@EVERY_POST
@pytest.mark.parametrize(
    "body",
    [b" ", b"nope", b"{", b'{"input": 1', b"[]", b'"text"', b"null", b"1", b"\xff\xfe\x00", b"\x1f\x8b junk",
     b"[" * 100_000, b'{"a":' * 50_000, b'{"input": "line\nbreak"}', b"{'input': 1}", b"{} {}"],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
async def test_a_body_that_is_no_json_object_is_refused(live: Live, raw: Raw, name: str, body: bytes) -> None:
    refused(await raw.send("POST", ROUTES[name].path, body), *SIGNATURES[name], "body", "JSON")


@EVERY_ROUTE
async def test_an_unknown_field_is_refused_by_name(live: Live, raw: Raw, name: str) -> None:
    refused(await raw.call(name, {**live.good(name), "nonsense": 1}), "nonsense", status=422)


@EVERY_POST
async def test_each_missing_field_is_named(live: Live, raw: Raw, name: str) -> None:
    for parameter in SIGNATURES[name].values():
        if parameter.default is parameter.empty:
            without = {key: value for key, value in live.good(name).items() if key != parameter.name}
            refused(await raw.call(name, without), parameter.name, status=422)


@EVERY_POST
async def test_each_field_of_the_wrong_kind_is_named(live: Live, raw: Raw, name: str) -> None:
    for parameter in SIGNATURES[name]:
        if parameter != "input":
            wrong: list[Any] = ["nonsense", 12.5] if parameter in FREE | {"resources"} else [{"non": ["sense"]}, [[1]]]
            for value in wrong:
                refused(await raw.call(name, {**live.good(name), parameter: value}), parameter, status=422)


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
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
    ],
)  # fmt: skip
async def test_a_value_that_makes_no_sense_is_refused_by_name(
    live: Live, raw: Raw, name: str, arguments: dict[str, Any], field: str
) -> None:
    refused(await raw.call(name, arguments), field, status=422)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None), ("name", 1), ("name", ["step"]), ("trace_id", 1), ("span_id", None), ("span_id", "line\nbreak"),
        ("span_id", "x" * 10_000), ("sequence_id", -1), ("sequence_id", "first"), ("sequence_id", 2**70),
        ("attributes", None), ("attributes", ["a"]), ("attributes", "a"), ("status", "OK"), ("status", None),
        ("status", {"status_code": "FINE"}), ("events", {}), ("events", [{}]), ("events", ["e"]), ("links", [{}]),
        ("links", [{"context": {}}]), ("start_time", "noon"), ("end_time", [1]), ("context", "c"), ("parent", {}),
        ("resource", "r"), ("resource", {"attributes": []}), ("rollout_id", None), ("attempt_id", 5),
    ],
)  # fmt: skip
async def test_a_span_that_could_not_be_read_back_is_refused_by_field(
    live: Live, raw: Raw, field: str, value: Any
) -> None:
    span = {**live.good("add_span")["span"], field: value}

    refused(await raw.call("add_span", {"span": span}), field, status=422)
    refused(await raw.call("add_many_spans", {"spans": [span]}), field, status=422)


@pytest.mark.parametrize("missing", ["rollout_id", "attempt_id", "trace_id", "span_id", "name"])
async def test_a_span_without_what_it_needs_is_refused_by_field(live: Live, raw: Raw, missing: str) -> None:
    span = {key: value for key, value in live.good("add_span")["span"].items() if key != missing}

    refused(await raw.call("add_span", {"span": span}), missing, status=422)


POISON = {
    "NaN": "NaN",
    "Infinity": "[-Infinity]",
    "too large a number": "1e999",
    "more than 64 bits": "[18446744073709551616]",
    "surrogate": '"\\ud800"',
    "surrogate key": '{"\\udfff": 1}',
    "depth": "[" * 65 + "0" + "]" * 65,
    "depth of objects": '{"k":' * 65 + "0" + "}" * 65,
}


@EVERY_POST
@pytest.mark.parametrize("poison", POISON)
async def test_what_json_cannot_carry_is_refused_wherever_it_stands(
    live: Live, raw: Raw, name: str, poison: str
) -> None:
    for parameter in [*SIGNATURES[name], "nonsense"]:
        body = json.dumps({**live.good(name), parameter: "POISON"}).replace('"POISON"', POISON[poison])
        refused(await raw.send("POST", ROUTES[name].path, body.encode()), parameter, "body")


@pytest.mark.parametrize("poison", POISON)
async def test_what_json_cannot_carry_is_refused_inside_spans_and_resources(live: Live, raw: Raw, poison: str) -> None:
    span = live.good("add_span")["span"]
    config = {"resource_type": "config", "value": "POISON"}

    for name, arguments in [
        ("add_span", {"span": {**span, "attributes": {"k": ["POISON"]}}}),
        ("add_many_spans", {"spans": [span, {**span, "events": [{"name": "e", "attributes": {"k": "POISON"}}]}]}),
        ("add_span", {"span": {**span, "nonsense": "POISON"}}),
        ("add_resources", {"resources": {"bad": config}}),
        ("update_resources", {"resources_id": "rs-new", "resources": {"bad": config}}),
        ("enqueue_many_rollouts", {"rollouts": [{"input": 1}, {"input": {"k": "POISON"}}]}),
    ]:
        body = json.dumps(arguments).replace('"POISON"', POISON[poison])
        refused(await raw.send("POST", ROUTES[name].path, body.encode()))


# Sizes


@EVERY_POST
async def test_a_body_of_twenty_megabytes_is_refused_before_it_is_read(live: Live, raw: Raw, name: str) -> None:
    head = f"POST {ROUTES[name].path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"

    answer = await send_bytes(live.server.endpoint, head.encode() + b'{"input": "xxx')

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


async def test_a_body_of_unknown_length_is_refused_when_it_grows_too_large(live: Live, raw: Raw) -> None:
    head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"

    answer = await send_bytes(live.server.endpoint, head + b"A\r\n" + b'{"input": ' + b"\r\n" + chunk * 17)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_just_within_the_limit_is_accepted(live: Live) -> None:
    async with Raw(live.server.endpoint) as raw:
        answer = await raw.call("query_rollouts", {"rollout_id_in": ["x" * 1_000] * 15_000})

    assert (answer.status, answer.json["items"]) == (200, [])


async def test_a_gzip_bomb_is_refused(live: Live, raw: Raw) -> None:
    bomb = gzip.compress(b'{"input": "') + gzip.compress(b"x" * 10_000_000) * 100 + gzip.compress(b'"}')

    refused(await raw.send("POST", "/enqueue_rollout", bomb, Content_Encoding="gzip"))


async def test_junk_that_calls_itself_gzip_is_refused(live: Live, raw: Raw) -> None:
    refused(await raw.send("POST", "/enqueue_rollout", b"\x1f\x8b\x08 junk", Content_Encoding="gzip"))


@pytest.mark.parametrize(
    "sent",
    [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00", b"GET / HTTP/9.9\r\n\r\n",
     b"POST /enqueue_rollout HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
     b"POST /enqueue_rollout HTTP/1.1\r\nContent-Length: many\r\n\r\n"],
    ids=lambda sent: repr(sent[:10]),
)  # fmt: skip
async def test_what_is_not_http_does_no_harm(live: Live, raw: Raw, sent: bytes) -> None:
    answer = await send_bytes(live.server.endpoint, sent)

    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")
    assert b"Traceback" not in answer


async def test_an_endless_header_is_refused(live: Live, raw: Raw) -> None:
    answer = await send_bytes(
        live.server.endpoint, b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n"
    )

    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")


async def test_an_endless_idempotency_key_is_refused_by_name(live: Live, raw: Raw) -> None:
    answer = await raw.call("enqueue_rollout", {"input": 1}, Idempotency_Key="x" * 5_000)

    refused(answer, "Idempotency-Key", status=422)


# Names


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.mutates])
async def test_a_change_of_something_unknown_is_not_found_by_name(live: Live, raw: Raw, name: str) -> None:
    for parameter in ("rollout_id", "attempt_id", "resources_id"):
        if parameter in SIGNATURES[name] and name != "update_resources":
            refused(await raw.call(name, {**live.good(name), parameter: "xx-unknown"}), "xx-unknown", status=404)
    span = live.good("add_span")["span"]
    if name in ("add_span", "add_many_spans"):
        for parameter in ("rollout_id", "attempt_id"):
            lost = {**span, parameter: "xx-unknown"}
            arguments = {"span": lost} if name == "add_span" else {"spans": [lost]}
            refused(await raw.call(name, arguments), "xx-unknown", status=404)


async def test_waiting_for_the_unknown_is_not_found_by_name(live: Live, raw: Raw) -> None:
    refused(await raw.call("wait_for_rollouts", {"rollout_ids": ["ro-unknown"]}), "ro-unknown", status=404)


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.path_parameters])
async def test_a_question_about_something_unknown_is_answered_with_nothing(live: Live, raw: Raw, name: str) -> None:
    if not ROUTES[name].mutates:
        answer = await raw.call(name, dict.fromkeys(ROUTES[name].path_parameters, "xx-unknown"))

        assert answer.status == 200
        assert answer.json is None or answer.json["items"] == []


# The client's side


async def test_errors_arrive_as_they_were_raised(live: Live) -> None:
    first = await live.store.start_rollout("task")
    second = await live.store.start_attempt(first.rollout_id)
    over = await live.store.start_rollout("over")
    await live.store.update_rollout(over.rollout_id, status="cancelled")
    queued = await live.store.enqueue_rollout("queued")

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

    async with LightningStoreClient(live.server.endpoint) as client:
        here, there = await errors(live.store), await errors(client)

    assert [type(error) for error in here] == [
        NotFound,
        StaleAttempt,
        FinalStatus,
        Conflict,
        InvalidInput,
        InvalidInput,
    ]
    assert [(type(error), str(error), error.field) for error in there] == [
        (type(error), str(error), error.field) for error in here
    ]
    assert await live.store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")


async def test_what_is_too_large_is_an_error_of_its_own(live: Live) -> None:
    from agentlightning.errors import TooLarge

    async with LightningStoreClient(live.server.endpoint) as client:
        with pytest.raises(TooLarge):
            await client.enqueue_rollout("x" * 20_000_000)
