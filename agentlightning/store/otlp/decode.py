"""OTLP's trace requests, protobuf or JSON, read into spans as the store keeps them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

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
"""Stands for an id until it is known whose the span is."""


@dataclass(frozen=True)
class Arrived:
    """A span, and whose it says it is."""

    span: EncodedSpan
    own: AttemptIds | None
    """By its own attributes."""
    resource: AttemptIds | None
    """By those of the process that made it."""


@dataclass(frozen=True)
class Refused:
    """A span that could not be kept, and why."""

    why: str


def parse(body: bytes, *, as_json: bool) -> ExportTraceServiceRequest:
    """A request's body. Raises `InvalidInput`."""
    try:
        if as_json:
            return _parse_json(payload.loads(body, field="body"))
        return ExportTraceServiceRequest.FromString(body)
    except (DecodeError, ParseError, binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(f"the body is not an OTLP trace request: {error}", field="body") from None


def read(request: ExportTraceServiceRequest) -> Iterator[Arrived | Refused]:
    """Its spans, in their order."""
    for group in request.resource_spans:
        attributes = _attributes(group.resource.attributes)
        resource = {"attributes": attributes, "schema_url": group.schema_url}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield _arrived(span, resource, ids_in(attributes))


def ids_in(attributes: JsonObject) -> AttemptIds | None:
    """The attempt that attributes name."""
    rollout_id, attempt_id = attributes.get(ROLLOUT_ID), attributes.get(ATTEMPT_ID)
    if isinstance(rollout_id, str) and isinstance(attempt_id, str) and rollout_id and attempt_id:
        return rollout_id, attempt_id
    return None


def _arrived(span: OtlpSpan, resource: JsonObject, of_resource: AttemptIds | None) -> Arrived | Refused:
    try:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise InvalidInput("a span's trace id has 16 bytes, its span id 8", field="span_id")
        fields = _fields(span, resource)
        text = payload.dumps(fields, field=f"span {span.name!r}")
        encoded = encoded_span.decode(redact_bytes(text))
    except InvalidInput as error:
        return Refused(str(error))
    return Arrived(encoded, ids_in(fields["attributes"]), of_resource)


def _fields(span: OtlpSpan, resource: JsonObject) -> JsonObject:
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
        "events": [
            {
                "name": event.name,
                "attributes": _attributes(event.attributes),
                "timestamp": _seconds(event.time_unix_nano),
            }
            for event in span.events
        ],
        "links": [
            {
                "context": _context(link.trace_id.hex(), link.span_id.hex(), link.trace_state),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
        "start_time": _seconds(span.start_time_unix_nano),
        "end_time": _seconds(span.end_time_unix_nano),
        "context": _context(trace_id, span.span_id.hex(), span.trace_state),
        "parent": _context(trace_id, parent_id, "") if parent_id else None,
        "resource": resource,
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
            # JSON has no NaN and no infinity; a span is not thrown away because of one.
            return value.double_value if math.isfinite(value.double_value) else str(value.double_value)
        case _:
            return getattr(value, kind)


# OTLP's JSON is protobuf's, except that ids are hex where protobuf's JSON has base64.


def _parse_json(request: Any) -> ExportTraceServiceRequest:
    for span in _spans_in(request):
        _ids_as_base64(span)
        for link in _list(span, "links"):
            _ids_as_base64(link)
    return ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def _spans_in(request: Any) -> Iterator[JsonObject]:
    for group in _list(request, "resourceSpans"):
        for scope in _list(group, "scopeSpans"):
            yield from _list(scope, "spans")


def _list(holder: Any, name: str) -> list[JsonObject]:
    if not isinstance(holder, dict):
        raise ValueError(f"{name} is looked for in {type(holder).__name__}, not in an object")
    found: Any = cast("JsonObject", holder).get(name) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in cast("list[Any]", found)):
        raise ValueError(f"{name} is a list of objects")
    return cast("list[JsonObject]", found)


def _ids_as_base64(holder: JsonObject) -> None:
    _in_place(holder, ("traceId", "spanId", "parentSpanId"), lambda text: base64.b64encode(bytes.fromhex(text)))


def _in_place(holder: JsonObject, names: Iterable[str], change: Callable[[str], bytes]) -> None:
    for name in names:
        if isinstance(text := holder.get(name), str):
            holder[name] = change(text).decode()
