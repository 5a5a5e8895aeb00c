"""`POST /v1/traces`: the real exporter and hand-made requests, whose their spans are, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import agentlightning as agl
from agentlightning.attempt_tokens import attempt_token, derive_secret
from agentlightning.errors import TooLarge
from agentlightning.http.limits import Limits
from agentlightning.store.otlp.receive import decompress
from agentlightning.types import AttemptedRollout

from .raw import Answer, Raw, bomb_of

TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
BOMB = bomb_of(2**30)
TOKEN, RUNNER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


class Live:
    """A served store with one running attempt."""

    def __init__(self, store: agl.InMemoryLightningStore, server: agl.LightningStoreServer, raw: Raw) -> None:
        self.store, self.server, self.raw = store, server, raw
        self.attempted: AttemptedRollout

    @property
    def ids(self) -> dict[str, str]:
        return ids(self.attempted)

    async def send(self, *spans: dict[str, Any], resource: dict[str, str] | None = None, **headers: str) -> Answer:
        body = json.dumps(traces(*spans, resource=resource)).encode()
        return await self.raw.send("POST", "/v1/traces", body, **{"Content_Type": "application/json"} | headers)

    async def spans(self) -> list[agl.Span]:
        return list(await self.store.query_spans(self.attempted.rollout_id))


def ids(attempted: AttemptedRollout) -> dict[str, str]:
    return {
        "agentlightning.rollout_id": attempted.rollout_id,
        "agentlightning.attempt_id": attempted.attempt.attempt_id,
    }


def pairs(attributes: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def span(span_id: str = SPAN, trace_id: str = TRACE, **attributes: str) -> dict[str, Any]:
    return {"traceId": trace_id, "spanId": span_id, "name": "step", "kind": 1, "attributes": pairs(attributes)}


def traces(*spans: dict[str, Any], resource: dict[str, str] | None = None) -> dict[str, Any]:
    scope = {"scope": {"name": "by hand"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [scope]}]}


async def serving(token: str | None = None, limits: Limits | None = None) -> AsyncIterator[Live]:
    async with agl.InMemoryLightningStore() as store:
        runner_token = RUNNER if token else None
        server = agl.LightningStoreServer(store, port=0, token=token, runner_token=runner_token, limits=limits)
        await server.start()
        async with Raw(server.endpoint) as raw:
            live = Live(store, server, raw)
            live.attempted = await store.start_rollout("task")
            yield live
        await server.stop()


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async for live in serving():
        yield live


@pytest.fixture
async def locked() -> AsyncIterator[Live]:
    async for live in serving(TOKEN):
        yield live


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_what_the_real_exporter_sends_is_stored(live: Live, compression: Compression) -> None:
    def export() -> None:
        exporter = OTLPSpanExporter(endpoint=live.server.otlp_traces_endpoint(), compression=compression)
        provider = TracerProvider(resource=Resource({"service.name": "agent", **live.ids}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner") as inner:
            inner.set_attributes({"count": 3, "share": 0.5, "fine": True, "words": ["a", "b"]})
            inner.add_event("moment", {"n": 1})
        provider.shutdown()

    await asyncio.to_thread(export)

    inner, outer = await live.spans()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert inner.attributes == {"count": 3, "share": 0.5, "fine": True, "words": ["a", "b"]}
    assert [(event.name, event.attributes) for event in inner.events] == [("moment", {"n": 1})]
    assert (inner.parent_id, inner.trace_id) == (outer.span_id, outer.trace_id)
    assert inner.resource.attributes["service.name"] == "agent"
    assert inner.start_time is not None
    assert inner.end_time is not None
    assert abs(time.time() - inner.end_time) < 60


async def test_json_by_hand_is_stored_and_answered_in_json(live: Live) -> None:
    answer = await live.send(
        span(color="red") | {"startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661500000000"},
        resource=live.ids,
    )

    assert (answer.status, answer.headers["Content-Type"], answer.json) == (200, "application/json", {})
    [stored] = await live.spans()
    assert (stored.trace_id, stored.span_id, stored.attributes) == (TRACE, SPAN, {"color": "red"})
    assert (stored.start_time, stored.end_time) == (1544712660.0, 1544712661.5)


async def test_a_span_says_whose_it_is_before_baggage_and_resource(live: Live) -> None:
    another = await live.store.start_rollout("another task")
    third = await live.store.start_rollout("third task")
    baggage = ",".join(f"{key}={value};p=1" for key, value in ids(another).items())

    await live.send(span("aa" * 8, **live.ids), span("bb" * 8), resource=ids(third), baggage=baggage)
    await live.send(span("cc" * 8), resource=ids(third))

    found = [
        [each.span_id for each in await live.store.query_spans(ro.rollout_id)]
        for ro in (live.attempted, another, third)
    ]
    assert found == [["aa" * 8], ["bb" * 8], ["cc" * 8]]


async def test_a_span_that_names_nobody_belongs_to_whom_its_trace_does(live: Live) -> None:
    await live.send(span("aa" * 8, **live.ids), span("bb" * 8))
    await live.send(span("cc" * 8))

    assert [each.span_id for each in await live.spans()] == ["aa" * 8, "bb" * 8, "cc" * 8]


async def test_spans_of_no_known_attempt_are_counted_and_the_rest_is_kept(live: Live) -> None:
    stranger = {"agentlightning.rollout_id": "ro-x", "agentlightning.attempt_id": "at-x"}

    answer = await live.send(span("aa" * 8, **live.ids), span("bb" * 8, **stranger), span("cc" * 8, "ab" * 16))

    assert answer.status == 200
    assert answer.json["partialSuccess"]["rejectedSpans"] == "2"
    assert "no attempt at-x of rollout ro-x" in answer.json["partialSuccess"]["errorMessage"]
    assert [each.span_id for each in await live.spans()] == ["aa" * 8]


async def test_the_same_span_twice_is_stored_once(live: Live) -> None:
    for _ in range(2):
        assert (await live.send(span(**live.ids))).json == {}

    assert len(await live.spans()) == 1


async def test_keys_in_spans_are_taken_out(live: Live) -> None:
    await live.send(span(header="Bearer sk-live-1234567890abcdef", **live.ids))

    [stored] = await live.spans()
    assert "1234567890abcdef" not in stored.model_dump_json()


async def test_a_number_that_json_cannot_hold_does_not_cost_the_span(live: Live) -> None:
    odd = span(**live.ids)
    odd["attributes"].append({"key": "loss", "value": {"doubleValue": "NaN"}})

    assert (await live.send(odd)).json == {}
    assert (await live.spans())[0].attributes["loss"] == "nan"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"resourceSpans": 1}', b'{"resourceSpans": [{"scopeSpans": [7]}]}'])
async def test_what_is_no_trace_request_is_refused_in_its_own_content_type(live: Live, body: bytes) -> None:
    answer = await live.raw.send("POST", "/v1/traces", body, Content_Type="application/json")

    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
    assert answer.json["code"] == 3
    binary = await live.raw.send("POST", "/v1/traces", b"\xff\xff", Content_Type="application/x-protobuf")
    assert (binary.status, binary.headers["Content-Type"]) == (400, "application/x-protobuf")


async def test_other_content_types_are_refused(live: Live) -> None:
    assert (await live.raw.send("POST", "/v1/traces", b"x", Content_Type="text/plain")).status == 415


def test_a_gzip_bomb_is_refused_at_once_and_costs_no_memory() -> None:
    lying = BOMB[:-4] + (1000).to_bytes(4, "little")
    tracemalloc.start()
    seconds: list[float] = []
    for bomb in (BOMB, lying):
        began = time.thread_time()
        with pytest.raises(TooLarge):
            decompress(bomb, 20 * 2**20)
        seconds.append(time.thread_time() - began)
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 900_000 < len(BOMB) < 1_100_000
    assert max(seconds) < 0.1
    assert grown < 64 * 1024 * 1024


async def test_a_gzip_bomb_gets_413(live: Live) -> None:
    answer = await live.raw.send("POST", "/v1/traces", BOMB, Content_Type="application/json", Content_Encoding="gzip")

    assert answer.status == 413
    assert answer.json["code"] == 8


@pytest.mark.parametrize("broken", [b"not gzip", gzip.compress(b"{}" * 100, mtime=0)[:-12]], ids=["not gzip", "cut"])
async def test_broken_gzip_is_refused(live: Live, broken: bytes) -> None:
    answer = await live.raw.send("POST", "/v1/traces", broken, Content_Type="application/json", Content_Encoding="gzip")

    assert answer.status in (400, 413)


async def test_a_store_that_is_full_says_503_and_when_to_come_again() -> None:
    async for live in serving(limits=Limits(requests=0)):
        answer = await live.send(span(**live.ids))

        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json["code"] == 14


@pytest.mark.parametrize("maker", [TOKEN, RUNNER])
async def test_an_attempts_token_adds_spans_to_its_own_attempt_and_opens_nothing_else(locked: Live, maker: str) -> None:
    another = await locked.store.start_rollout("another task")
    token = attempt_token(derive_secret(maker), locked.attempted.rollout_id, locked.attempted.attempt.attempt_id)
    bearer = f"Bearer {token}"

    own = await locked.send(span("aa" * 8, **locked.ids), Authorization=bearer)
    foreign = await locked.send(span("bb" * 8, **ids(another)), Authorization=bearer)

    assert own.json == {}
    assert "not valid for attempt" in foreign.json["partialSuccess"]["errorMessage"]
    assert not await locked.store.query_spans(another.rollout_id)
    assert len(await locked.spans()) == 1
    assert (await locked.raw.send("GET", "/statistics", Authorization=bearer)).status == 401
    for path in ("/add_span", "/add_many_spans", "/update_attempt", "/update_rollout", "/enqueue_rollout"):
        assert (await locked.raw.send("POST", path, b"{}", Authorization=bearer)).status == 401
    assert (await locked.send(span(**locked.ids))).status == 401


async def test_protobuf_is_answered_with_protobuf(live: Live) -> None:
    answer = await live.raw.send("POST", "/v1/traces", None, Content_Type="application/x-protobuf")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-protobuf")
    assert ExportTraceServiceResponse.FromString(answer.text.encode()) == ExportTraceServiceResponse()
