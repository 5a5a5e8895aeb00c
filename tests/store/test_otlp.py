"""`POST /v1/traces`: requests of the official exporter and by hand, the attempt of each span, and rejections."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from agentlightning.store.otlp.decode import decompress
from agentlightning.types import AttemptedRollout

from ..timing import quickest
from .raw import Raw, RawResponse, gzip_bomb

TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
BOMB = gzip_bomb(2**30)
TOKEN, RUNNER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


class OtlpServer:
    """A store server with one running attempt."""

    def __init__(self, store: agl.InMemoryLightningStore, server: agl.LightningStoreServer, raw: Raw) -> None:
        self.store, self.server, self.raw = store, server, raw
        self.attempted: AttemptedRollout

    @property
    def ids(self) -> dict[str, str]:
        return ids(self.attempted)

    async def send(self, *spans: dict[str, Any], resource: dict[str, str] | None = None, **headers: str) -> RawResponse:
        return await self.post(json.dumps(traces(*spans, resource=resource)).encode(), **headers)

    async def post(self, body: bytes | None, **headers: str) -> RawResponse:
        return await self.raw.send("POST", "/v1/traces", body, **{"Content_Type": "application/json"} | headers)

    async def span_ids(self, attempted: AttemptedRollout | None = None) -> list[str]:
        return [each.span_id for each in await self.store.query_spans((attempted or self.attempted).rollout_id)]

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


@asynccontextmanager
async def serving(token: str | None = None, limits: Limits | None = None) -> AsyncIterator[OtlpServer]:
    async with agl.InMemoryLightningStore() as store:
        runner_token = RUNNER if token else None
        server = agl.LightningStoreServer(store, port=0, token=token, runner_token=runner_token, limits=limits)
        await server.start()
        async with Raw(server.endpoint) as raw:
            served = OtlpServer(store, server, raw)
            served.attempted = await store.start_rollout("task")
            yield served
        await server.stop()


@pytest.fixture
async def served() -> AsyncIterator[OtlpServer]:
    async with serving() as served:
        yield served


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_spans_of_the_official_exporter_are_stored(served: OtlpServer, compression: Compression) -> None:
    def export() -> None:
        exporter = OTLPSpanExporter(endpoint=served.server.otlp_traces_endpoint(), compression=compression)
        provider = TracerProvider(resource=Resource({"service.name": "agent", **served.ids}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner") as inner:
            inner.set_attributes({"count": 3, "share": 0.5, "fine": True, "words": ["a", "b"]})
            inner.add_event("moment", {"n": 1})
        provider.shutdown()

    await asyncio.to_thread(export)

    inner, outer = await served.spans()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert inner.attributes == {"count": 3, "share": 0.5, "fine": True, "words": ["a", "b"]}
    assert [(event.name, event.attributes) for event in inner.events] == [("moment", {"n": 1})]
    assert (inner.parent_id, inner.trace_id) == (outer.span_id, outer.trace_id)
    assert inner.resource.attributes["service.name"] == "agent"
    assert inner.start_time is not None
    assert inner.end_time is not None
    assert abs(time.time() - inner.end_time) < 60


async def test_json_request_is_stored_and_answered_in_json(served: OtlpServer) -> None:
    answer = await served.send(
        span(color="red") | {"startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661500000000"},
        resource=served.ids,
    )

    assert (answer.status, answer.headers["Content-Type"], answer.json) == (200, "application/json", {})
    [stored] = await served.spans()
    assert (stored.trace_id, stored.span_id, stored.attributes) == (TRACE, SPAN, {"color": "red"})
    assert (stored.start_time, stored.end_time) == (1544712660.0, 1544712661.5)


async def test_protobuf_request_is_answered_in_protobuf(served: OtlpServer) -> None:
    answer = await served.post(None, Content_Type="application/x-protobuf")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-protobuf")
    assert ExportTraceServiceResponse.FromString(answer.text.encode()) == ExportTraceServiceResponse()


# The attempt of a span


async def test_span_attributes_outrank_baggage_and_resource(served: OtlpServer) -> None:
    another = await served.store.start_rollout("another task")
    third = await served.store.start_rollout("third task")
    baggage = ",".join(f"{key}={value};p=1" for key, value in ids(another).items())

    await served.send(span("aa" * 8, **served.ids), span("bb" * 8), resource=ids(third), baggage=baggage)
    await served.send(span("cc" * 8), resource=ids(third))

    found = [await served.span_ids(attempted) for attempted in (served.attempted, another, third)]
    assert found == [["aa" * 8], ["bb" * 8], ["cc" * 8]]


async def test_span_without_ids_belongs_to_the_attempt_of_its_trace(served: OtlpServer) -> None:
    await served.send(span("aa" * 8, **served.ids), span("bb" * 8))
    await served.send(span("cc" * 8))

    assert await served.span_ids() == ["aa" * 8, "bb" * 8, "cc" * 8]


async def test_spans_of_unknown_attempts_are_rejected_and_the_rest_is_stored(served: OtlpServer) -> None:
    unknown = {"agentlightning.rollout_id": "ro-x", "agentlightning.attempt_id": "at-x"}

    answer = await served.send(span("aa" * 8, **served.ids), span("bb" * 8, **unknown), span("cc" * 8, "ab" * 16))

    assert answer.status == 200
    assert answer.json["partialSuccess"]["rejectedSpans"] == "2"
    assert "no attempt at-x of rollout ro-x" in answer.json["partialSuccess"]["errorMessage"]
    assert await served.span_ids() == ["aa" * 8]


async def test_repeated_span_is_stored_once(served: OtlpServer) -> None:
    for _ in range(2):
        assert (await served.send(span(**served.ids))).json == {}

    assert len(await served.spans()) == 1


async def test_api_keys_are_redacted(served: OtlpServer) -> None:
    await served.send(span(header="Bearer sk-live-1234567890abcdef", **served.ids))

    [stored] = await served.spans()
    assert "1234567890abcdef" not in stored.model_dump_json()


async def test_nan_is_stored_as_text(served: OtlpServer) -> None:
    odd = span(**served.ids)
    odd["attributes"].append({"key": "loss", "value": {"doubleValue": "NaN"}})

    assert (await served.send(odd)).json == {}
    assert (await served.spans())[0].attributes["loss"] == "nan"


@pytest.mark.parametrize("maker", [TOKEN, RUNNER])
async def test_attempt_token_permits_spans_of_its_own_attempt_only(maker: str) -> None:
    async with serving(TOKEN) as served:
        another = await served.store.start_rollout("another task")
        attempt = served.attempted.attempt
        bearer = f"Bearer {attempt_token(derive_secret(maker), attempt.rollout_id, attempt.attempt_id)}"

        own = await served.send(span("aa" * 8, **served.ids), Authorization=bearer)
        foreign = await served.send(span("bb" * 8, **ids(another)), Authorization=bearer)

        assert own.json == {}
        assert "not valid for attempt" in foreign.json["partialSuccess"]["errorMessage"]
        assert await served.span_ids(another) == []
        assert await served.span_ids() == ["aa" * 8]
        assert (await served.send(span(**served.ids))).status == 401


# Rejected requests


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"resourceSpans": 1}', b'{"resourceSpans": [{"scopeSpans": [7]}]}'])
async def test_invalid_json_gets_400_in_json(served: OtlpServer, body: bytes) -> None:
    answer = await served.post(body)

    assert (answer.status, answer.headers["Content-Type"], answer.json["code"]) == (400, "application/json", 3)


async def test_invalid_protobuf_gets_400_in_protobuf(served: OtlpServer) -> None:
    answer = await served.post(b"\xff\xff", Content_Type="application/x-protobuf")

    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/x-protobuf")


async def test_other_content_types_get_415(served: OtlpServer) -> None:
    assert (await served.post(b"x", Content_Type="text/plain")).status == 415


@pytest.mark.parametrize("broken", [b"not gzip", gzip.compress(b"{}" * 100, mtime=0)[:-12]], ids=["not gzip", "cut"])
async def test_invalid_gzip_is_rejected(served: OtlpServer, broken: bytes) -> None:
    assert (await served.post(broken, Content_Encoding="gzip")).status in (400, 413)


async def test_gzip_bomb_is_rejected_within_a_tenth_of_a_second_and_64_megabytes() -> None:
    async def seconds(bomb: bytes) -> float:
        started = time.thread_time()
        with pytest.raises(TooLarge):
            decompress(bomb, 20 * 2**20)
        return time.thread_time() - started

    claims_little = BOMB[:-4] + (1000).to_bytes(4, "little")
    tracemalloc.start()
    try:
        for bomb in (BOMB, claims_little):
            assert await quickest(lambda bomb=bomb: seconds(bomb), 0.1) < 0.1
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_gzip_bomb_gets_413(served: OtlpServer) -> None:
    answer = await served.post(BOMB, Content_Encoding="gzip")

    assert (answer.status, answer.json["code"]) == (413, 8)


async def test_full_store_returns_503_with_retry_after() -> None:
    async with serving(limits=Limits(requests=0)) as served:
        answer = await served.send(span(**served.ids))

        assert (answer.status, answer.headers["Retry-After"], answer.json["code"]) == (503, "1", 14)
