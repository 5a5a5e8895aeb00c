"""Spans as the store keeps them, written as OTLP's protobuf.

Each span is written out by itself, and a request is put together from those bytes: one call that wrote a whole batch
would hold the interpreter for many milliseconds, and with it whoever waits for the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span as OtlpSpan, Status

from ...semconv import ATTEMPT_ID, GEN_AI_REQUEST_MODEL, ROLLOUT_ID, SPAN_SEQUENCE_ID
from ...types.spans import NANOSECONDS

JsonObject = dict[str, Any]

_STATUS = {"OK": Status.STATUS_CODE_OK, "ERROR": Status.STATUS_CODE_ERROR}
_WITH_SCOPE = ScopeSpans(scope=InstrumentationScope(name="agentlightning")).SerializeToString()
_SERVICE = "service.name"


class Encoded(NamedTuple):
    """One span in bytes."""

    resource: bytes
    """Fields of a `ResourceSpans`: what made the span."""
    span: bytes
    """A field of a `ScopeSpans`."""


def encoded(payload: bytes) -> Encoded:
    """One span's JSON text as OTLP; its resource says what made it, its attributes whose it is."""
    span: JsonObject = orjson.loads(payload)
    resource = ResourceSpans(
        resource=Resource(attributes=_pairs({_SERVICE: "agentlightning", **span["resource"]["attributes"]})),
        schema_url=span["resource"]["schema_url"],
    )
    scope = ScopeSpans(spans=[_span(span)])
    return Encoded(resource.SerializeToString(deterministic=True), scope.SerializeToString())


def request_of(spans: Iterable[Encoded]) -> bytes:
    """A request with these spans; those of one resource stand together."""
    groups: dict[bytes, list[bytes]] = {}
    for each in spans:
        groups.setdefault(each.resource, [_WITH_SCOPE]).append(each.span)
    return b"".join(part for resource, fields in groups.items() for part in _group(resource, fields))


def _group(resource: bytes, fields: list[bytes]) -> list[bytes]:
    """The spans of one resource, in pieces."""
    # Fields of a message may come in any order and from several hands: protobuf reads them as one.
    within = [resource, *_field(_SCOPE_SPANS, fields)]
    return _field(_RESOURCE_SPANS, within)


_RESOURCE_SPANS, _SCOPE_SPANS = 1, 2
"""Numbers of the fields: of a request, and of a `ResourceSpans`."""


def _field(number: int, message: list[bytes]) -> list[bytes]:
    """A message within another, as protobuf writes it, both in pieces."""
    return [bytes([number << 3 | 2]), _varint(sum(map(len, message))), *message]


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _span(span: JsonObject) -> OtlpSpan:
    start = span["start_time"] or span["end_time"] or 0
    whose = {
        ROLLOUT_ID: span["rollout_id"],
        ATTEMPT_ID: span["attempt_id"],
        SPAN_SEQUENCE_ID: span["sequence_id"],
    }
    is_call = GEN_AI_REQUEST_MODEL in span["attributes"]
    return OtlpSpan(
        trace_id=_id(span["trace_id"], 16),
        span_id=_id(span["span_id"], 8),
        parent_span_id=_id(span["parent_id"], 8) if span["parent_id"] else b"",
        trace_state=_trace_state(span["context"]),
        name=span["name"],
        kind=OtlpSpan.SPAN_KIND_CLIENT if is_call else OtlpSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(start),
        end_time_unix_nano=_nanoseconds(span["end_time"] or start),
        attributes=_pairs({**span["attributes"], **whose}),
        events=[_event(event, start) for event in span["events"]],
        links=[_link(link) for link in span["links"]],
        status=Status(
            code=_STATUS.get(span["status"]["status_code"], Status.STATUS_CODE_UNSET),
            message=span["status"].get("description") or "",
        ),
    )


def _event(event: JsonObject, start: float) -> OtlpSpan.Event:
    when = event.get("timestamp") or start
    return OtlpSpan.Event(
        time_unix_nano=_nanoseconds(when), name=event["name"], attributes=_pairs(event.get("attributes") or {})
    )


def _link(link: JsonObject) -> OtlpSpan.Link:
    context = link["context"]
    return OtlpSpan.Link(
        trace_id=_id(context["trace_id"], 16),
        span_id=_id(context["span_id"], 8),
        trace_state=_trace_state(context),
        attributes=_pairs(link.get("attributes") or {}),
    )


def _id(text: str, size: int) -> bytes:
    """The id's bytes; of one that is not OpenTelemetry's own kind, others that are always the same."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    return found if len(found) == size and any(found) else hashlib.sha256(text.encode()).digest()[:size]


def _trace_state(context: JsonObject | None) -> str:
    state: JsonObject = (context or {}).get("trace_state") or {}
    return ",".join(f"{key}={value}" for key, value in state.items())


def _nanoseconds(seconds: float) -> int:
    return max(0, min(int(seconds * NANOSECONDS), 2**64 - 1))


def _pairs(attributes: JsonObject) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items() if value is not None]


def _value(value: Any) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=value)
        case bool():
            return AnyValue(bool_value=value)
        case int() if -(2**63) <= value < 2**63:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[_value(each) for each in cast("list[Any]", value)]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=_pairs(cast("JsonObject", value))))
        case None:
            return AnyValue()
        case _:
            return AnyValue(string_value=str(value))
