"""Limits of `POST /v1/traces`: small bodies that unpack to millions of objects are refused quickly."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from agentlightning.errors import InvalidInput, TooLarge
from agentlightning.http.limits import Limits
from agentlightning.store.otlp.decode import ReceivedSpan, decode_request, decompress
from agentlightning.types import AttemptedRollout

from ..timing import quickest
from .test_otlp import ids, serving

PROTOBUF, JSON = "application/x-protobuf", "application/json"


def message(tag: int, content: bytes) -> bytes:
    """Return a protobuf field that contains a message."""
    size, rest = b"", len(content)
    while rest >= 0x80:
        size += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([tag]) + size + bytes([rest]) + content


def request(spans: bytes) -> bytes:
    return message(0x0A, message(0x12, spans))


def attribute(key: str, value: AnyValue) -> KeyValue:
    return KeyValue(key=key, value=value)


def encoded(number: int, *attributes: KeyValue, name: str = "step") -> Span:
    return Span(
        trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), name=name, attributes=attributes, end_time_unix_nano=1
    )


def spans_of(attempted: AttemptedRollout, *spans: Span) -> bytes:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    group.resource.attributes.extend(
        attribute(key, AnyValue(string_value=value)) for key, value in ids(attempted).items()
    )
    return ExportTraceServiceRequest(resource_spans=[group]).SerializeToString()


IDS = message(0x0A, b"t" * 16) + message(0x12, b"s" * 8)
MILLIONS = 3_000_000
BOMBS = {
    "empty spans": (PROTOBUF, request(b"\x12\x00" * MILLIONS)),
    "minimal valid spans": (PROTOBUF, request(message(0x12, IDS) * 500_000)),
    "empty resources": (PROTOBUF, b"\x0a\x00" * MILLIONS),
    "unknown fields": (PROTOBUF, b"\x78\x00" * MILLIONS),
    "empty attributes": (PROTOBUF, request(message(0x12, IDS + b"\x4a\x00" * MILLIONS))),
    "empty events": (PROTOBUF, request(message(0x12, IDS + b"\x5a\x00" * MILLIONS))),
    "long numbers in a span": (PROTOBUF, request(message(0x12, IDS + (b"\x50" + b"\xff" * 9 + b"\x01") * 500_000))),
    "array of nothing": (
        PROTOBUF,
        request(message(0x12, message(0x4A, message(0x12, message(0x2A, b"\x0a\x00" * MILLIONS))))),
    ),
    "empty JSON lists": (JSON, b"[" + b"[]," * MILLIONS + b"[]]"),
    "empty JSON spans": (JSON, b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * MILLIONS + b"{}]}]}]}"),
}


@pytest.mark.parametrize("kind", BOMBS)
async def test_millions_of_objects_are_refused_with_little_cpu_time(kind: str) -> None:
    media_type, body = BOMBS[kind]
    packed = gzip.compress(body, 1)
    async with serving() as served:

        async def seconds() -> float:
            started = time.process_time()
            answer = await served.post(packed, Content_Type=media_type, Content_Encoding="gzip")
            assert answer.status in (400, 413) or "repeats fields" in answer.text
            return time.process_time() - started

        assert await quickest(seconds, 0.1) < 0.3


@pytest.mark.parametrize("size", [200_000, 800_000])
def test_more_than_a_thousand_gzip_members_are_refused_at_once(size: int) -> None:
    empty = gzip.compress(b"")
    assert decompress(empty * 999 + gzip.compress(b"end"), 1_000) == b"end"

    started = time.thread_time()
    with pytest.raises(TooLarge, match="1000 members"):
        decompress(empty * size, 1_000)
    assert time.thread_time() - started < 0.3


def test_decompression_takes_time_linear_in_its_input() -> None:
    def seconds(size: int) -> float:
        packed = gzip.compress(bytes(range(256)) * (size // 256), 0)
        started = time.thread_time()
        assert len(decompress(packed, 2 * size)) == size
        return time.thread_time() - started

    assert min(seconds(2**24) for _ in range(3)) < 12 * max(0.01, min(seconds(2**22) for _ in range(3)))


@pytest.mark.parametrize(
    ("limits", "spans", "named"),
    [
        (Limits(spans=2), [encoded(number) for number in range(1, 4)], "Limits.spans"),
        (
            Limits(span_values=50),
            [encoded(1, *(attribute(f"k{n}", AnyValue(int_value=n)) for n in range(51)))],
            "Limits.span_values",
        ),
        (
            Limits(span_values=50),
            [encoded(1, attribute("k", AnyValue(array_value=ArrayValue(values=[AnyValue()] * 50))))],
            "Limits.span_values",
        ),
    ],
)
async def test_request_beyond_a_limit_gets_413_that_names_it_and_stores_nothing(
    limits: Limits, spans: list[Span], named: str
) -> None:
    async with serving(limits=limits) as served:
        within = spans_of(served.attempted, *spans[: limits.spans], encoded(99))
        answer = await served.post(spans_of(served.attempted, *spans), Content_Type=PROTOBUF)

        assert (answer.status, named in answer.text) == (413, True)
        assert await served.span_ids() == []
        if len(spans) == 1:
            looser = replace(limits, span_values=limits.span_values + 10)
            assert all(isinstance(each, ReceivedSpan) for each in decode(within, looser))


def decode(body: bytes, limits: Limits, *, as_json: bool = False) -> list[ReceivedSpan | str]:
    decoding = decode_request(body, "identity", as_json=as_json, limits=limits)
    return [each for each in decoding if each is not None]


def repeated(field: bytes, counts: list[int]) -> bytes:
    """Return a request in which each span repeats a field."""
    spans = (IDS[:-8] + number.to_bytes(8, "big") + field * count for number, count in enumerate(counts, 1))
    return request(b"".join(message(0x12, span) for span in spans))


def seconds_to_decode(body: bytes) -> tuple[float, str]:
    """Return the CPU time for decoding a request, and the last error message."""
    started = time.thread_time()
    reason = ""
    try:
        reason = str(decode(body, Limits())[-1])
    except TooLarge as error:
        reason = str(error)
    return time.thread_time() - started, reason


@pytest.mark.parametrize("field", [b"\x4a\x00", b"\x5a\x00", b"\x6a\x00"], ids=["attributes", "events", "links"])
def test_request_whose_last_span_is_too_large_is_refused_before_the_others_are_decoded(field: bytes) -> None:
    body = repeated(field, [20_000] * 24 + [20_001])

    seconds, reason = min(seconds_to_decode(body) for _ in range(3))
    assert "Limits.span_values" in reason
    assert seconds < 0.6  # decoding the attributes takes about 1 s, and the links 10 s


@pytest.mark.parametrize(("field", "count"), [(b"\x5a\x00", 500), (b"\x6a\x00", 500), (b"\x6a\x00", 20_000)])
def test_many_events_or_links_take_little_cpu_time(field: bytes, count: int) -> None:
    seconds, reason = min(seconds_to_decode(repeated(field, [count] * (400_000 // count))) for _ in range(2))

    assert "Limits.values" in reason or "at most 1000 events and 1000 links" in reason
    assert seconds < 2


def test_resources_count_towards_the_values_of_a_request() -> None:
    resource = message(0x0A, b"\x0a\x00" * 19_000)
    body = message(0x0A, resource + message(0x12, message(0x12, IDS))) * 200

    seconds, reason = min(seconds_to_decode(body) for _ in range(2))
    assert "Limits.values" in reason
    assert seconds < 3  # without the limit: 200 resources take more than 8 s


def test_large_spans_beyond_the_limit_on_values_get_413_before_any_is_decoded() -> None:
    steps = decode_request(repeated(b"\x4a\x00", [20_000] * 30), "identity", as_json=False, limits=Limits())

    with pytest.raises(TooLarge, match=r"Limits\.values"):
        assert all(each is None for each in steps)


async def test_spans_beyond_the_limit_on_values_are_rejected_and_the_rest_is_stored() -> None:
    async with serving(limits=Limits(values=10)) as served:
        spans = [encoded(n, *(attribute(f"k{k}", AnyValue(int_value=k)) for k in range(6))) for n in range(1, 4)]
        answer = await served.post(spans_of(served.attempted, *spans), Content_Type=PROTOBUF)

        assert answer.status == 200
        assert "Limits.values" in answer.text
        assert len(await served.span_ids()) == 1


def test_large_resource_is_not_multiplied_by_the_number_of_spans() -> None:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=[encoded(number) for number in range(1, 101)])])
    group.resource.attributes.append(attribute("host", AnyValue(string_value="x" * 100_000)))
    body = ExportTraceServiceRequest(resource_spans=[group]).SerializeToString()

    assert all(isinstance(each, ReceivedSpan) for each in decode(body, Limits()))
    [reason] = set(decode(body, Limits(unpacked=2**20)))
    assert "take more than 4 MiB (4 times Limits.unpacked)" in str(reason)


def test_default_batch_of_a_collector_is_decoded_in_short_steps() -> None:
    hello = [attribute(f"key{number}", AnyValue(string_value="hello")) for number in range(5)]
    scope = ScopeSpans(spans=[encoded(number, *hello) for number in range(1, 8_193)])
    body = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()

    steps = decode_request(body, "identity", as_json=False, limits=Limits())
    seconds: list[float] = []
    while True:
        started = time.thread_time()
        found = next(steps, None)
        seconds.append(time.thread_time() - started)
        if found is None:
            break

    assert len(seconds) == 8_193
    assert sorted(seconds)[-2] < 0.01  # the first step finds the boundaries of all spans
    assert max(seconds) < 0.1


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a" + b"\xff" * 11 + b"\x01",
        b"\x0a\x05ab",
        request(b"\x12\x7fab"),
        b"\x0b\x0c",
        b"\x02\x00",
        message(0x0A, b"\x0d\x00\x00"),
        message(0x0A, message(0x1A, b"\xff")),
    ],
    ids=["long number", "too short", "too short within", "group", "no number", "cut number", "schema_url"],
)
def test_malformed_protobuf_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not an OTLP trace request"):
        decode(body, Limits())


async def test_invalid_span_is_rejected_and_the_rest_is_stored() -> None:
    deep = AnyValue(string_value="x")
    for _ in range(40):
        deep = AnyValue(array_value=ArrayValue(values=[deep]))
    async with serving() as served:
        body = spans_of(served.attempted, encoded(1, name="BROKEN"), encoded(2, attribute("deep", deep)), encoded(3))
        answer = await served.post(body.replace(b"BROKEN", b"\xff" * 6), Content_Type=PROTOBUF)

        assert answer.status == 200
        assert await served.span_ids() == [f"{number:016x}" for number in (2, 3)]


DEEP: dict[str, Callable[[int], bytes]] = {
    "lists": lambda depth: b"[" * depth + b"]" * depth,
    "in a resource": lambda depth: (
        b'{"resourceSpans":[{"resource":' + b"[" * depth + b"]" * depth + b',"scopeSpans":[{"spans":[{}]}]}]}'
    ),
    "in a span": lambda depth: (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":' + b"[" * depth + b"]" * depth + b"}]}]}]}"
    ),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("depth", [100, 1_500, 100_000])
async def test_deep_json_is_rejected(kind: str, depth: int) -> None:
    async with serving() as served:
        answer = await served.post(DEEP[kind](depth))

        assert answer.status in (200, 400)
        assert "nest" in answer.text or "recursion" in answer.text or "Expected" in answer.text
