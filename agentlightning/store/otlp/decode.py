"""Decoding of OTLP trace requests, protobuf or JSON, into spans in the store's encoding."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ... import payload
from ...errors import InvalidInput
from ...redaction import redact_bytes
from ...semconv import ATTEMPT_ID, ROLLOUT_ID
from ...types.spans import NANOSECONDS
from .. import encoded_span
from ..encoded_span import EncodedSpan

AttemptIds = tuple[str, str]
JsonObject = dict[str, Any]

_STATUS = ("UNSET", "OK", "ERROR")
_UNKNOWN = "?"
"""Placeholder for the ids until the span's attempt is known."""


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, and the attempts that its request names for it."""

    span: EncodedSpan
    by_span: AttemptIds | None
    """Named by the span's attributes."""
    by_resource: AttemptIds | None
    """Named by the resource attributes, of the process that recorded the span."""


def decode_spans(body: bytes, *, as_json: bool) -> list[ReceivedSpan | str]:
    """Return the spans of a request's body, or why one cannot be stored, in their order. Raises `InvalidInput`."""
    try:
        if as_json:
            request = _parse_json(payload.loads(body, field="body"))
        else:
            request = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, ParseError, binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(f"the body is not an OTLP trace request: {error}", field="body") from None
    return list(_spans(request))


def attempt_in(attributes: JsonObject) -> AttemptIds | None:
    """Return the attempt that attributes name."""
    rollout_id, attempt_id = attributes.get(ROLLOUT_ID), attributes.get(ATTEMPT_ID)
    if isinstance(rollout_id, str) and isinstance(attempt_id, str) and rollout_id and attempt_id:
        return rollout_id, attempt_id
    return None


def _spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan | str]:
    for group in request.resource_spans:
        attributes = _attributes(group.resource.attributes)
        resource = {"attributes": attributes, "schema_url": group.schema_url}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield _received(span, resource, attempt_in(attributes))


def _received(span: Span, resource: JsonObject, by_resource: AttemptIds | None) -> ReceivedSpan | str:
    try:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise InvalidInput("a trace id must have 16 bytes, a span id 8", field="span_id")
        fields = _fields(span, resource)
        text = payload.dumps(fields, field=f"span {span.name!r}")
        return ReceivedSpan(encoded_span.decode(redact_bytes(text)), attempt_in(fields["attributes"]), by_resource)
    except InvalidInput as error:
        return str(error)


def _fields(span: Span, resource: JsonObject) -> JsonObject:
    trace_id, parent_id = span.trace_id.hex(), span.parent_span_id.hex() or None
    return {
        "rollout_id": _UNKNOWN,
        "attempt_id": _UNKNOWN,
        "trace_id": trace_id,
        "span_id": span.span_id.hex(),
        "parent_id": parent_id,
        "name": span.name,
        "status": {
            "status_code": _STATUS[span.status.code] if 0 <= span.status.code < len(_STATUS) else "UNSET",
            "description": span.status.message or None,
        },
        "attributes": _attributes(span.attributes),
        "events": [_event(event) for event in span.events],
        "links": [_link(link) for link in span.links],
        "start_time": _seconds(span.start_time_unix_nano),
        "end_time": _seconds(span.end_time_unix_nano),
        "context": _context(trace_id, span.span_id.hex(), span.trace_state),
        "parent": _context(trace_id, parent_id, "") if parent_id else None,
        "resource": resource,
    }


def _event(event: Span.Event) -> JsonObject:
    return {
        "name": event.name,
        "attributes": _attributes(event.attributes),
        "timestamp": _seconds(event.time_unix_nano),
    }


def _link(link: Span.Link) -> JsonObject:
    return {
        "context": _context(link.trace_id.hex(), link.span_id.hex(), link.trace_state),
        "attributes": _attributes(link.attributes),
    }


def _context(trace_id: str, span_id: str, trace_state: str) -> JsonObject:
    entries = (entry.strip().partition("=") for entry in trace_state.split(",") if "=" in entry)
    state = {key: value for key, _, value in entries}
    return {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": state}


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / NANOSECONDS if nanoseconds else None


def _attributes(pairs: Iterable[KeyValue]) -> JsonObject:
    values = {pair.key: _value(pair.value) for pair in pairs}
    return {key: value for key, value in values.items() if value is not None}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return [_value(each) for each in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "double_value":
            # JSON has neither NaN nor infinity; such a number must not cost the span.
            return value.double_value if math.isfinite(value.double_value) else str(value.double_value)
        case _:
            return getattr(value, kind)


def _parse_json(value: Any) -> ExportTraceServiceRequest:
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object")
    request = cast("JsonObject", value)
    # OTLP's JSON is protobuf's JSON, except that ids are hex instead of base64.
    for group in _objects(request, "resourceSpans"):
        for scope in _objects(group, "scopeSpans"):
            for span in _objects(scope, "spans"):
                for each in (span, *_objects(span, "links")):
                    _convert_ids(each)
    return ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def _objects(parent: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects of a list; `ParseDict` reports anything else in its place."""
    values = parent.get(name)
    return [each for each in cast("list[Any]", values) if isinstance(each, dict)] if isinstance(values, list) else []


def _convert_ids(parent: JsonObject) -> None:
    for name in ("traceId", "spanId", "parentSpanId"):
        if isinstance(text := parent.get(name), str):
            parent[name] = base64.b64encode(bytes.fromhex(text)).decode()
