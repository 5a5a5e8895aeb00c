"""Decoding of OTLP requests: decompression, protobuf or JSON, and conversion of each span to this store's format.

A request is decoded span by span, so that no call holds the GIL for long, and decoding stops once a limit is exceeded.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ... import payload
from ...errors import InvalidInput, TooLarge
from ...http.limits import Limits
from ...semconv import ATTEMPT_ID, ROLLOUT_ID
from ...types.spans import NANOSECONDS
from .. import encoded_span
from ..encoded_span import EncodedSpan
from . import PATH
from .wire import SpanGroup, count_values, malformed, split_request, too_many

AttemptIds = tuple[str, str]
JsonObject = dict[str, Any]

_STATUS = ("UNSET", "OK", "ERROR")
_UNKNOWN = "?"
"""Placeholder for a span's rollout id and attempt id until its attempt has been determined."""
_CHUNK = 64 * 1024
_MAX_GZIP_MEMBERS = 1_000
"""Maximum number of members in gzip data, which usually has one. Empty members do not count towards the size limit."""
_MAX_EXPANSION = 4
"""Maximum total size of a request's spans, as a multiple of the limit `unpacked`.

It applies to the spans as they are stored, each with a copy of its resource.
"""
_MAX_EVENTS, _MAX_LINKS = 1_000, 1_000
"""Maximum numbers of events and links in one span. OpenTelemetry's SDKs keep 128 of each by default."""
_VALUES_PER_EVENT, _VALUES_PER_LINK = 8, 15
"""Number of values as which an event and a link count towards the limit `values`, in proportion to their CPU time."""
_MAX_TRACE_STATES = 100
"""Maximum number of entries in a trace state. The W3C recommendation permits 32."""
_DECODING_ERRORS = (DecodeError, ParseError, binascii.Error, TypeError, ValueError)


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, and the attempts named in its own attributes and in its resource attributes, if any."""

    span: EncodedSpan
    by_span: AttemptIds | None
    """The attempt named in the span's attributes."""
    by_resource: AttemptIds | None
    """The attempt named in the resource attributes, which describe the source of the span, such as a process."""


def decode_request(body: bytes, encoding: str, *, as_json: bool, limits: Limits) -> Iterator[ReceivedSpan | str | None]:
    """Yield the spans in order, with an error message in place of each invalid span.

    The iterator yields None after each large span that it has checked, so that the caller can let other tasks run.

    Raises `InvalidInput` if the body as a whole cannot be decoded. Raises `TooLarge` before any span is decoded if the
    body is too large or has too many spans, or if a span or all large spans together have too many values. Discard the
    spans that were yielded before an error.
    """
    if encoding == "gzip":
        body = decompress(body, limits.unpacked)
    elif encoding != "identity":
        raise InvalidInput(f"{PATH} accepts the content encoding gzip or none, not {encoding}", field="body")
    body_format = _JSON if as_json else _PROTOBUF
    groups = [group for group in body_format.split(body, limits) if group.spans]
    yield from _check_groups(body_format, groups, limits)
    converter = _Converter(body_format, limits)
    for group in groups:
        yield from converter.convert(group)


def _check_groups(body_format: _Format, groups: Sequence[SpanGroup], limits: Limits) -> Iterator[None]:
    """Check the values in every span and resource. Yield after each one whose values have been counted."""
    total = 0
    for group in groups:
        for index, text in enumerate((group.resource, *group.spans)):
            if values := body_format.values(text, limits, index == 0):
                total += values
                if total > limits.values:
                    raise too_many("values", "values", limits.values, "send fewer spans in each request")
                yield


def decompress(body: bytes, limit: int) -> bytes:
    """Decompress gzip data.

    Raises `TooLarge` if the result exceeds `limit` bytes or the data has more than `_MAX_GZIP_MEMBERS` members, and
    `InvalidInput` if the data is invalid.
    """
    # Gzip data ends with the decompressed size of its last member, so most gzip bombs are rejected immediately.
    # All others are rejected when their decompressed content exceeds the limit.
    if int.from_bytes(body[-4:], "little") > limit:
        raise _too_large(limit)
    content: list[bytes] = []
    size = 0
    try:
        for chunk in _decompressed_chunks(body):
            content.append(chunk)
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid gzip data: {error}", field="body") from None
    return b"".join(content)


def _decompressed_chunks(body: bytes) -> Iterator[bytes]:
    position = members = 0
    while position < len(body):
        members += 1
        if members > _MAX_GZIP_MEMBERS:
            raise TooLarge(f"the body's gzip data has more than {_MAX_GZIP_MEMBERS} members", field="body")
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = member.unconsumed_tail
            if not piece:
                piece = body[position : position + _CHUNK]
                position += len(piece)
            if not piece:
                raise InvalidInput("the body's gzip data is truncated", field="body")
            yield member.decompress(piece, _CHUNK)
        position -= len(member.unused_data)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit // 2**20} MiB when decompressed (Limits.unpacked)", field="body")


# Formats


class _Format(NamedTuple):
    """Functions for decoding the parts of a request in one of the two formats."""

    split: Callable[[bytes, Limits], list[SpanGroup]]
    values: Callable[[bytes, Limits, bool], int]
    """Returns the number of values in a span or, if the last argument is true, in a resource.

    Returns 0 if there is no need to count them. Raises `TooLarge` if there are more than `span_values`.
    """
    span: Callable[[bytes, Limits], Span]
    resource: Callable[[bytes, Limits], Resource]


def _count_protobuf_values(text: bytes, limits: Limits, is_resource: bool) -> int:
    return count_values(text, limits.span_values, is_resource=is_resource)


def _span_from_protobuf(text: bytes, limits: Limits) -> Span:
    return Span.FromString(text)


def _resource_from_protobuf(text: bytes, limits: Limits) -> Resource:
    return Resource.FromString(text)


class _JsonScope(msgspec.Struct):
    spans: list[msgspec.Raw] | None = None


class _JsonGroup(msgspec.Struct, rename="camel"):
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scope_spans: list[_JsonScope] | None = None
    schema_url: str | None = None


class _JsonRequest(msgspec.Struct, rename="camel"):
    resource_spans: list[_JsonGroup] | None = None


_json_request = msgspec.json.Decoder(_JsonRequest)


def _split_json(body: bytes, limits: Limits) -> list[SpanGroup]:
    payload.check_size(body, field="body", values=limits.values)
    try:
        request = _json_request.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None
    groups: list[SpanGroup] = []
    count = 0
    for group in request.resource_spans or ():
        spans = [bytes(span) for scope in group.scope_spans or () for span in scope.spans or ()]
        count += len(spans)
        if count > limits.spans:
            raise too_many("spans", "spans", limits.spans, "send fewer spans in each request")
        groups.append(SpanGroup(bytes(group.resource), group.schema_url or "", spans))
    return groups


def _count_json_values(text: bytes, limits: Limits, is_resource: bool) -> int:
    payload.check_size(text, field="body", values=_json_values(limits))
    return 0  # `_split_json` has checked the total


def _json_values(limits: Limits) -> int:
    # `check_size` counts opening braces and commas. An attribute has four of them, and an element of a list has two.
    return 4 * limits.span_values


def _span_from_json(text: bytes, limits: Limits) -> Span:
    fields = _object(text, limits)
    for each in (fields, *_links(fields)):
        _convert_ids(each)
    return ParseDict(fields, Span(), ignore_unknown_fields=True)


def _resource_from_json(text: bytes, limits: Limits) -> Resource:
    return ParseDict(_object(text, limits), Resource(), ignore_unknown_fields=True)


def _object(text: bytes, limits: Limits) -> JsonObject:
    value: Any = payload.loads(text, field="body", depth=limits.depth, values=_json_values(limits))
    if not isinstance(value, dict):
        raise InvalidInput("spans and resources must be JSON objects", field="body")
    return cast("JsonObject", value)


def _links(span: JsonObject) -> list[JsonObject]:
    """Return a span's links, except values that are not objects. `ParseDict` rejects those later."""
    links = span.get("links")
    return [each for each in cast("list[Any]", links) if isinstance(each, dict)] if isinstance(links, list) else []


def _convert_ids(parent: JsonObject) -> None:
    # OTLP uses protobuf's JSON encoding, except that ids are encoded in hexadecimal instead of base64.
    for name in ("traceId", "spanId", "parentSpanId"):
        if isinstance(text := parent.get(name), str):
            parent[name] = base64.b64encode(bytes.fromhex(text)).decode()


_PROTOBUF = _Format(split_request, _count_protobuf_values, _span_from_protobuf, _resource_from_protobuf)
_JSON = _Format(_split_json, _count_json_values, _span_from_json, _resource_from_json)


# Spans


def attempt_in(attributes: JsonObject) -> AttemptIds | None:
    """Return the rollout id and attempt id in `attributes`, or None if either is missing, empty or not a string."""
    rollout_id, attempt_id = attributes.get(ROLLOUT_ID), attributes.get(ATTEMPT_ID)
    if isinstance(rollout_id, str) and isinstance(attempt_id, str) and rollout_id and attempt_id:
        return rollout_id, attempt_id
    return None


class _Converter:
    """Converts the spans of one request until together they exceed a limit.

    All further spans are rejected without being decoded.
    """

    def __init__(self, body_format: _Format, limits: Limits) -> None:
        self._format = body_format
        self._limits = limits
        self._values_left = limits.values
        self._bytes_left = _MAX_EXPANSION * limits.unpacked

    def convert(self, group: SpanGroup) -> Iterator[ReceivedSpan | str]:
        try:
            self._check_totals()
        except InvalidInput as error:
            yield from (str(error) for _ in group.spans)
            return
        try:
            decoded = self._format.resource(group.resource, self._limits)
        except _DECODING_ERRORS as error:
            raise malformed(error) from None
        attributes = self._attributes(decoded.attributes)
        resource = {"attributes": attributes, "schema_url": group.schema_url}
        text = msgspec.Raw(payload.dumps(resource, field="resource"))
        self._bytes_left -= len(bytes(text)) * len(group.spans)
        by_resource = attempt_in(attributes)
        for encoded in group.spans:
            yield self._received(encoded, text, by_resource)

    def _received(self, encoded: bytes, resource: msgspec.Raw, by_resource: AttemptIds | None) -> ReceivedSpan | str:
        try:
            self._check_totals()
            fields = self._fields(self._format.span(encoded, self._limits))
            text = payload.dumps(fields, field=f"span {fields['name'][:100]!r}")
            self._bytes_left -= len(text)
            self._check_totals()
            span = encoded_span.decode(text)
        except TooLarge:
            raise
        except _DECODING_ERRORS as error:
            return str(error)
        span.resource = resource
        return ReceivedSpan(span, attempt_in(fields["attributes"]), by_resource)

    def _check_totals(self) -> None:
        limits = self._limits
        if self._values_left < 0:
            raise InvalidInput(f"the request has more than {limits.values} values (Limits.values); send fewer spans")
        if self._bytes_left < 0:
            raise InvalidInput(
                f"the request's spans, each with its resource, take more than {_MAX_EXPANSION * limits.unpacked >> 20} "
                f"MiB ({_MAX_EXPANSION} times Limits.unpacked); send fewer spans or smaller resources"
            )

    def _fields(self, span: Span) -> JsonObject:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise InvalidInput("a trace id must have 16 bytes, and a span id 8 bytes", field="span_id")
        if len(span.events) > _MAX_EVENTS or len(span.links) > _MAX_LINKS:
            raise InvalidInput(
                f"span {span.name[:100]!r} has {len(span.events)} events and {len(span.links)} links, but at most "
                f"{_MAX_EVENTS} events and {_MAX_LINKS} links are allowed: send more spans with fewer of them"
            )
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
            "attributes": self._attributes(span.attributes),
            "events": [self._event(event) for event in span.events],
            "links": [self._link(link) for link in span.links],
            "start_time": _seconds(span.start_time_unix_nano),
            "end_time": _seconds(span.end_time_unix_nano),
            "context": self._context(trace_id, span.span_id.hex(), span.trace_state),
            "parent": self._context(trace_id, parent_id, "") if parent_id else None,
        }

    def _event(self, event: Span.Event) -> JsonObject:
        self._values_left -= _VALUES_PER_EVENT
        return {
            "name": event.name,
            "attributes": self._attributes(event.attributes),
            "timestamp": _seconds(event.time_unix_nano),
        }

    def _link(self, link: Span.Link) -> JsonObject:
        self._values_left -= _VALUES_PER_LINK
        return {
            "context": self._context(link.trace_id.hex(), link.span_id.hex(), link.trace_state),
            "attributes": self._attributes(link.attributes),
        }

    def _context(self, trace_id: str, span_id: str, trace_state: str) -> JsonObject:
        if trace_state.count(",") > _MAX_TRACE_STATES:
            raise InvalidInput(f"the trace state has more than {_MAX_TRACE_STATES} entries", field="trace_state")
        entries = (entry.strip().partition("=") for entry in trace_state.split(",") if "=" in entry)
        state = {key: value for key, _, value in entries}
        return {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": state}

    def _attributes(self, pairs: Sequence[KeyValue]) -> JsonObject:
        self._values_left -= len(pairs)
        values = {pair.key: self._value(pair.value) for pair in pairs}
        return {key: value for key, value in values.items() if value is not None}

    def _value(self, value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        match kind:
            case None:
                return None
            case "array_value":
                elements = value.array_value.values
                self._values_left -= len(elements)
                return [self._value(each) for each in elements]
            case "kvlist_value":
                return self._attributes(value.kvlist_value.values)
            case "bytes_value":
                return base64.b64encode(value.bytes_value).decode()
            case "double_value":
                # JSON cannot represent NaN and infinity. Keep such values as text, so that the span is not rejected.
                return value.double_value if math.isfinite(value.double_value) else str(value.double_value)
            case _:
                return getattr(value, kind)


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / NANOSECONDS if nanoseconds else None
