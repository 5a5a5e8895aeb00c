"""Encoding of stored spans as OTLP protobuf.

Each span is encoded separately, because a call that encodes a whole batch would hold the GIL for 15 to 30 ms and delay
every request to the store. The official encoder in opentelemetry-exporter-otlp-proto-common encodes whole batches,
takes 1.6 times as much CPU time, and accepts only ids in OpenTelemetry's format.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ...semconv import ATTEMPT_ID, GEN_AI_REQUEST_MODEL, ROLLOUT_ID, SPAN_SEQUENCE_ID
from ...types.spans import NANOSECONDS

JsonObject = dict[str, Any]

_SCOPE = InstrumentationScope(name="agentlightning")
_SERVICE = "service.name"


def encode_span(payload: bytes) -> bytes:
    """Encode a span's JSON text as an OTLP trace request that contains only this span.

    Several concatenated requests form one request with all of their spans, because protobuf joins repeated fields.
    """
    span: JsonObject = orjson.loads(payload)
    resource = span["resource"]
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(
        resource=Resource(attributes=_pairs({_SERVICE: "agentlightning", **resource["attributes"]})),
        schema_url=resource["schema_url"],
    )
    group.scope_spans.add(scope=_SCOPE).spans.append(_span(span))
    return request.SerializeToString()


def _span(span: JsonObject) -> Span:
    start = span["start_time"] or span["end_time"] or 0
    ids = {
        ROLLOUT_ID: span["rollout_id"],
        ATTEMPT_ID: span["attempt_id"],
        SPAN_SEQUENCE_ID: span["sequence_id"],
    }
    is_model_call = GEN_AI_REQUEST_MODEL in span["attributes"]
    return Span(
        trace_id=_id(span["trace_id"], 16),
        span_id=_id(span["span_id"], 8),
        parent_span_id=_id(span["parent_id"], 8) if span["parent_id"] else b"",
        trace_state=_trace_state(span["context"]),
        name=span["name"],
        kind=Span.SPAN_KIND_CLIENT if is_model_call else Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(start),
        end_time_unix_nano=_nanoseconds(span["end_time"] or start),
        attributes=_pairs({**span["attributes"], **ids}),
        events=[_event(event, start) for event in span["events"]],
        links=[_link(link) for link in span["links"]],
        status=Status(
            code=Status.StatusCode.Value(f"STATUS_CODE_{span['status']['status_code']}"),
            message=span["status"].get("description") or "",
        ),
    )


def _event(event: JsonObject, start: float) -> Span.Event:
    return Span.Event(
        time_unix_nano=_nanoseconds(event.get("timestamp") or start),
        name=event["name"],
        attributes=_pairs(event.get("attributes") or {}),
    )


def _link(link: JsonObject) -> Span.Link:
    context = link["context"]
    return Span.Link(
        trace_id=_id(context["trace_id"], 16),
        span_id=_id(context["span_id"], 8),
        trace_state=_trace_state(context),
        attributes=_pairs(link.get("attributes") or {}),
    )


def _id(text: str, size: int) -> bytes:
    """Return an id as `size` bytes. If the text is not a valid OpenTelemetry id, return a hash of the text."""
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
