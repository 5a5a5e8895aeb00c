"""`POST /v1/traces`: spans from any OpenTelemetry exporter, protobuf or JSON, gzip or plain.

A span belongs to the attempt that its attributes name, else the baggage header, else its resource attributes, else the
attempt of its trace. Spans without a known attempt are not stored; the response counts them.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ...errors import InvalidInput, NotFound, StoreUnavailable, TooLarge
from ...http.limits import AdmissionControl
from ..encoded_span import EncodedSpan
from ..sql import SqlStore
from . import JSON, PATH, PROTOBUF
from .decode import AttemptIds, ReceivedSpan, attempt_in, decode_spans

_THREAD_THRESHOLD = 64 * 1024
"""Bytes of a body from which it is decoded in a thread, so that it does not delay other requests."""
_RPC_CODES = {400: 3, 403: 7, 413: 8, 415: 3, 503: 14}
"""The code of google.rpc.Status for each HTTP status."""


class OtlpReceiver:
    """Stores the spans of OTLP requests, for the attempts that the request's token covers."""

    def __init__(
        self, store: SqlStore, admission: AdmissionControl, covers_attempt: Callable[[Scope, str, str], bool]
    ) -> None:
        self._store = store
        self._admission = admission
        self._covers_attempt = covers_attempt

    async def post_traces(self, request: Request) -> Response:
        """Store the spans of one request."""
        media_type = request.headers.get("content-type", PROTOBUF).partition(";")[0].strip().lower()
        if media_type not in (JSON, PROTOBUF):
            return _failure(JSON, 415, f"{PATH} takes {PROTOBUF} and {JSON}, not {media_type}")
        try:
            with await self._admission.admit(request.scope, request.receive) as permit:
                rejections = await self._store_body(permit.body, media_type, request)
        except ConnectionResetError:
            return Response(status_code=499)
        except (InvalidInput, StoreUnavailable) as error:
            status = 413 if isinstance(error, TooLarge) else 400 if isinstance(error, InvalidInput) else 503
            return _failure(media_type, status, str(error))
        return _success(media_type, rejections)

    async def _store_body(self, body: bytes, media_type: str, request: Request) -> list[str]:
        """Store the acceptable spans; return the reason for each of the others."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        decode = partial(_decode, body, encoding, as_json=media_type == JSON, limit=self._admission.limits.unpacked)
        received = await asyncio.to_thread(decode) if len(body) >= _THREAD_THRESHOLD else decode()
        rejections = [each for each in received if isinstance(each, str)]
        spans: list[EncodedSpan] = []
        assigned = await self._assign([each for each in received if isinstance(each, ReceivedSpan)], _baggage(request))
        known = await self._store.existing_attempts({ids for _, ids in assigned if ids})
        for span, ids in assigned:
            if ids and not self._covers_attempt(request.scope, *ids):
                rejections.append(f"this token is not valid for attempt {ids[1]} of rollout {ids[0]}")
            elif not ids:
                rejections.append(f"span {span.name!r} names no attempt, and its trace belongs to none")
            elif ids not in known:
                rejections.append(f"span {span.name!r}: there is no attempt {ids[1]} of rollout {ids[0]}")
            else:
                span.rollout_id, span.attempt_id = ids
                spans.append(span)
        try:
            await self._store.add_encoded_spans(spans)
        except NotFound as error:  # an attempt was deleted in the meantime
            rejections += [str(error)] * len(spans)
        return rejections

    async def _assign(
        self, received: Sequence[ReceivedSpan], baggage: AttemptIds | None
    ) -> list[tuple[EncodedSpan, AttemptIds | None]]:
        """Return each span with the attempt that it belongs to."""
        named = [(each.span, each.by_span or baggage or each.by_resource) for each in received]
        traces = {span.trace_id: ids for span, ids in named if ids}
        unknown = {span.trace_id for span, ids in named if not ids} - traces.keys()
        traces |= await self._store.live_attempts_by_trace(unknown)
        return [(span, ids or traces.get(span.trace_id)) for span, ids in named]


def _baggage(request: Request) -> AttemptIds | None:
    entries = (entry.partition(";")[0].partition("=") for entry in request.headers.get("baggage", "").split(","))
    return attempt_in({name.strip(): unquote(value.strip()) for name, _, value in entries})


# Request bodies


def _decode(body: bytes, encoding: str, *, as_json: bool, limit: int) -> list[ReceivedSpan | str]:
    if encoding == "gzip":
        body = decompress(body, limit)
    elif encoding != "identity":
        raise InvalidInput(f"{PATH} takes gzip or no content encoding, not {encoding}", field="body")
    return decode_spans(body, as_json=as_json)


def decompress(body: bytes, limit: int) -> bytes:
    """Return the content of gzip data. Raises `TooLarge` beyond `limit` bytes, `InvalidInput` for other data."""
    content = b""
    # Gzip ends with the size of its content. An honest bomb is refused at once, any other at the limit.
    is_too_large = int.from_bytes(body[-4:], "little") > limit
    while body and not is_too_large:
        member = zlib.decompressobj(wbits=31)
        try:
            content += member.decompress(body, limit + 1 - len(content))
        except zlib.error as error:
            raise InvalidInput(f"the body is not gzip: {error}", field="body") from None
        is_too_large = len(content) > limit
        if not (member.eof or is_too_large):
            raise InvalidInput("the gzip data of the body is truncated", field="body")
        body = member.unused_data
    if is_too_large:
        raise TooLarge(f"the body is larger than {limit // (1024 * 1024)} MiB when decompressed", field="body")
    return content


# Responses, in the media type of the request


def _success(media_type: str, rejections: list[str]) -> Response:
    message = "; ".join(dict.fromkeys(rejections))[:1000]
    if media_type == JSON:
        partial_success = {"rejectedSpans": str(len(rejections)), "errorMessage": message}
        return Response(orjson.dumps({"partialSuccess": partial_success} if rejections else {}), media_type=JSON)
    answer = ExportTraceServiceResponse()
    if rejections:
        answer.partial_success.rejected_spans = len(rejections)
        answer.partial_success.error_message = message
    return Response(answer.SerializeToString(), media_type=PROTOBUF)


def _failure(media_type: str, status: int, message: str) -> Response:
    code = _RPC_CODES[status]
    if media_type == JSON:
        body = orjson.dumps({"code": code, "message": message})
    else:  # ExportTracePartialSuccess has the wire format of google.rpc.Status
        body = ExportTracePartialSuccess(rejected_spans=code, error_message=message).SerializeToString()
    # Never 429: exporters may treat it as final, and the protocol uses 503 for a busy server.
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(body, status, headers, media_type=media_type)
