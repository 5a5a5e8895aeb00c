"""`POST /v1/traces`: receives spans from any OpenTelemetry exporter, as protobuf or JSON, with or without gzip.

A span belongs to the attempt named in its attributes, in the baggage header or in its resource attributes, in that
order of precedence. If none of these names an attempt, the span belongs to the attempt of the request's token or, with
any other token, to the only live attempt that has spans in the same trace. Spans whose attempt is unknown, ambiguous or
not permitted are rejected, and the response contains the number of rejected spans.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ... import payload
from ...errors import FinalStatus, InvalidInput, NotFound, StoreUnavailable, TooLarge
from ...http.limits import AdmissionControl
from ...redaction import redact_bytes
from ...semconv import ATTEMPT_ID, ROLLOUT_ID
from ...types.spans import NANOSECONDS
from .. import encoded_span
from ..encoded_span import EncodedSpan
from ..sql import SqlStore
from . import JSON, PATH, PROTOBUF

AttemptIds = tuple[str, str]
NamedSpan = tuple[EncodedSpan, AttemptIds | None]
"""A span, and the attempt that its labels (attributes, baggage or resource) name, if any."""
JsonObject = dict[str, Any]

_THREAD_THRESHOLD = 64 * 1024
"""Minimum size, in bytes, of bodies that are decoded in another thread so that they do not delay other requests."""
_RPC_CODES = {400: 3, 403: 7, 413: 8, 415: 3, 503: 14}
"""The google.rpc.Status code for each HTTP status."""

_STATUS = ("UNSET", "OK", "ERROR")
_UNKNOWN = "?"
"""Placeholder for a span's rollout id and attempt id until its attempt has been determined."""


class OtlpReceiver:
    """Stores the spans in OTLP requests, provided that the request's token is valid for their attempts."""

    def __init__(
        self, store: SqlStore, admission: AdmissionControl, token_attempt: Callable[[Scope], AttemptIds | None]
    ) -> None:
        self._store = store
        self._admission = admission
        self._token_attempt = token_attempt

    async def post_traces(self, request: Request) -> Response:
        """Store the spans in a request, and report the number of rejected spans in the response.

        Raises `Unauthorized`, before the body is read, if the request's attempt token is no longer valid.
        """
        if token_attempt := self._token_attempt(request.scope):
            await self._store.check_attempt_token(*token_attempt, self._admission.limits.attempt_token_seconds)
        media_type = request.headers.get("content-type", PROTOBUF).partition(";")[0].strip().lower()
        if media_type not in (JSON, PROTOBUF):
            return _failure(JSON, 415, f"{PATH} takes {PROTOBUF} and {JSON}, not {media_type}")
        try:
            with await self._admission.admit(request.scope, request.receive) as permit:
                rejections = await self._store_body(permit.body, media_type, request)
        except (InvalidInput, StoreUnavailable) as error:
            status = 413 if isinstance(error, TooLarge) else 400 if isinstance(error, InvalidInput) else 503
            return _failure(media_type, status, str(error))
        return _success(media_type, rejections)

    async def _store_body(self, body: bytes, media_type: str, request: Request) -> list[str]:
        """Store the spans in a body, and return a reason for each span that was rejected instead."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        decode = partial(_decode, body, encoding, as_json=media_type == JSON, limit=self._admission.limits.unpacked)
        received = await asyncio.to_thread(decode) if len(body) >= _THREAD_THRESHOLD else decode()
        rejections = [each for each in received if isinstance(each, str)]
        baggage = _baggage(request)
        spans: list[EncodedSpan] = []
        named = [
            (each.span, each.by_span or baggage or each.by_resource)
            for each in received
            if isinstance(each, ReceivedSpan)
        ]
        for span, ids in await self._assign(named, self._token_attempt(request.scope)):
            if isinstance(ids, str):
                rejections.append(ids)
            else:
                span.rollout_id, span.attempt_id = ids
                spans.append(span)
        return rejections + await self._add(spans)

    async def _assign(
        self, named: Sequence[NamedSpan], token_attempt: AttemptIds | None
    ) -> list[tuple[EncodedSpan, AttemptIds | str]]:
        """Return each span with the ids of its attempt, or with the reason for which the span must be rejected."""
        if token_attempt is not None:
            return [(span, _permitted(ids or token_attempt, token_attempt)) for span, ids in named]
        live = await self._store.existing_attempts({ids for _, ids in named if ids})
        by_trace = await self._attempts_by_trace(named, live)
        return [
            (span, _only(by_trace.get(span.trace_id, ()), span) if ids is None else _existing(ids, live, span))
            for span, ids in named
        ]

    async def _attempts_by_trace(
        self, named: Sequence[NamedSpan], live: Mapping[AttemptIds, bool]
    ) -> dict[str, set[AttemptIds]]:
        """Map each trace that has unlabelled spans to its live attempts, or to its ended ones if none is live."""
        unlabelled = {span.trace_id for span, ids in named if ids is None}
        found = await self._store.live_attempts_by_trace(unlabelled)
        for span, ids in named:
            if ids is not None and ids in live and span.trace_id in unlabelled:
                found.setdefault(span.trace_id, set()).add(ids)
        return {trace: {each for each in every if live.get(each, True)} or every for trace, every in found.items()}

    async def _add(self, spans: list[EncodedSpan]) -> list[str]:
        """Store spans. Return a reason for each span of an attempt that was deleted meanwhile or is full."""
        try:
            await self._store.add_encoded_spans(spans)
        except (NotFound, FinalStatus) as error:
            by_attempt: dict[AttemptIds, list[EncodedSpan]] = {}
            for span in spans:
                by_attempt.setdefault((span.rollout_id, span.attempt_id), []).append(span)
            if len(by_attempt) == 1:
                return [str(error)] * len(spans)
            return [reason for part in by_attempt.values() for reason in await self._add(part)]
        return []


def _permitted(ids: AttemptIds, token_attempt: AttemptIds) -> AttemptIds | str:
    return ids if ids == token_attempt else f"this token is not valid for attempt {ids[1]} of rollout {ids[0]}"


def _existing(ids: AttemptIds, live: Mapping[AttemptIds, bool], span: EncodedSpan) -> AttemptIds | str:
    return ids if ids in live else f"span {span.name!r}: there is no attempt {ids[1]} of rollout {ids[0]}"


def _only(attempts: Collection[AttemptIds], span: EncodedSpan) -> AttemptIds | str:
    if len(attempts) == 1:
        return next(iter(attempts))
    if not attempts:
        return f"neither the span {span.name!r} nor its trace belongs to an attempt"
    return (
        f"the span {span.name!r} is ambiguous, because {len(attempts)} attempts share its trace: set its attributes "
        f"{ROLLOUT_ID} and {ATTEMPT_ID}"
    )


def _baggage(request: Request) -> AttemptIds | None:
    entries = (entry.partition(";")[0].partition("=") for entry in request.headers.get("baggage", "").split(","))
    return _attempt_in({name.strip(): unquote(value.strip()) for name, _, value in entries})


# Request bodies


def _decode(body: bytes, encoding: str, *, as_json: bool, limit: int) -> list[ReceivedSpan | str]:
    """Return the spans in order, with an error message in place of each invalid span.

    Raises `InvalidInput` if the body cannot be decoded.
    """
    if encoding == "gzip":
        body = decompress(body, limit)
    elif encoding != "identity":
        raise InvalidInput(f"{PATH} accepts gzip or no content encoding, not {encoding}", field="body")
    try:
        parse = _parse_json if as_json else ExportTraceServiceRequest.FromString
        request = parse(body)
    except (DecodeError, ParseError, binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(f"the body is not an OTLP trace request: {error}", field="body") from None
    return list(_spans(request))


def decompress(body: bytes, limit: int) -> bytes:
    """Decompress gzip data.

    Raises `TooLarge` if the result exceeds `limit` bytes, and `InvalidInput` if the data is invalid.
    """
    content = b""
    # Gzip data ends with the size of its content, so most decompression bombs are rejected immediately. All others are
    # rejected when their decompressed content exceeds the limit.
    is_too_large = int.from_bytes(body[-4:], "little") > limit
    while body and not is_too_large:
        member = zlib.decompressobj(wbits=31)
        try:
            content += member.decompress(body, limit + 1 - len(content))
        except zlib.error as error:
            raise InvalidInput(f"the body is not valid gzip data: {error}", field="body") from None
        is_too_large = len(content) > limit
        if not (member.eof or is_too_large):
            raise InvalidInput("the body's gzip data is truncated", field="body")
        body = member.unused_data
    if is_too_large:
        raise TooLarge(f"the body is larger than {limit // (1024 * 1024)} MiB when decompressed", field="body")
    return content


# Spans


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, and the attempts named in its own attributes and in its resource attributes, if any."""

    span: EncodedSpan
    by_span: AttemptIds | None
    """The attempt named in the span's attributes."""
    by_resource: AttemptIds | None
    """The attempt named in the resource attributes, which describe the source of the span, such as a process."""


def _attempt_in(attributes: JsonObject) -> AttemptIds | None:
    """Return the ids of the attempt named in `attributes`, or None if no attempt is named there."""
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
                yield _received(span, resource, _attempt_in(attributes))


def _received(span: Span, resource: JsonObject, by_resource: AttemptIds | None) -> ReceivedSpan | str:
    try:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise InvalidInput("a trace id must have 16 bytes, a span id 8", field="span_id")
        fields = _fields(span, resource)
        text = payload.dumps(fields, field=f"span {span.name!r}")
        return ReceivedSpan(encoded_span.decode(redact_bytes(text)), _attempt_in(fields["attributes"]), by_resource)
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
            # JSON cannot represent NaN and infinity. Keep such values as text, so that the span is not rejected.
            return value.double_value if math.isfinite(value.double_value) else str(value.double_value)
        case _:
            return getattr(value, kind)


def _parse_json(body: bytes) -> ExportTraceServiceRequest:
    value: Any = payload.loads(body, field="body")
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object")
    request = cast("JsonObject", value)
    # OTLP uses protobuf's JSON encoding, except that ids are encoded in hexadecimal instead of base64.
    for group in _objects(request, "resourceSpans"):
        for scope in _objects(group, "scopeSpans"):
            for span in _objects(scope, "spans"):
                for each in (span, *_objects(span, "links")):
                    _convert_ids(each)
    return ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def _objects(parent: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects in a list field. Ignore invalid values, which `ParseDict` rejects later."""
    values = parent.get(name)
    return [each for each in cast("list[Any]", values) if isinstance(each, dict)] if isinstance(values, list) else []


def _convert_ids(parent: JsonObject) -> None:
    for name in ("traceId", "spanId", "parentSpanId"):
        if isinstance(text := parent.get(name), str):
            parent[name] = base64.b64encode(bytes.fromhex(text)).decode()


# Responses, in the media type of the request


def _success(media_type: str, rejections: list[str]) -> Response:
    answer = ExportTraceServiceResponse()
    if rejections:
        answer.partial_success.rejected_spans = len(rejections)
        answer.partial_success.error_message = "; ".join(dict.fromkeys(rejections))[:1000]
    body = orjson.dumps(MessageToDict(answer)) if media_type == JSON else answer.SerializeToString()
    return Response(body, media_type=media_type)


def _failure(media_type: str, status: int, message: str) -> Response:
    code = _RPC_CODES[status]
    if media_type == JSON:
        body = orjson.dumps({"code": code, "message": message})
    else:  # ExportTracePartialSuccess has the same wire format as google.rpc.Status
        body = ExportTracePartialSuccess(rejected_spans=code, error_message=message).SerializeToString()
    # Never return 429, because some exporters do not retry after a 429. The protocol also allows 503 for an overloaded
    # server.
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(body, status, headers, media_type=media_type)
