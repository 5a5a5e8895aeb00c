"""`POST /v1/traces`: receives spans from any OpenTelemetry exporter, as protobuf or JSON, with or without gzip.

A span belongs to the attempt named in its attributes, in the baggage header or in its resource attributes, in that
order of precedence. If none of these names an attempt, the span belongs to the attempt to which the request's token is
restricted. If the token is not restricted to an attempt, the span belongs to the only live attempt that has spans in
the same trace. If no attempt with spans in the trace is live, the span belongs to the only ended attempt that other
spans of the trace in the same request name.

Spans whose attempt is unknown, ambiguous or not permitted by the token are rejected. The response contains the number
of rejected spans.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar
from urllib.parse import unquote

import orjson
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ...concurrency import map_in_slices
from ...errors import FinalStatus, InvalidInput, NotFound, StoreUnavailable, TooLarge
from ...http.limits import AdmissionControl
from ...semconv import ATTEMPT_ID, ROLLOUT_ID
from ..encoded_span import EncodedSpan
from ..sql import SqlStore
from . import JSON, PATH, PROTOBUF
from .decode import AttemptIds, ReceivedSpan, attempt_in, decode_request, decompress

T = TypeVar("T")
NamedSpan = tuple[EncodedSpan, AttemptIds | None]
"""A span, and the attempt named in its attributes, in the baggage header or in its resource attributes, if any."""

_THREAD_THRESHOLD = 32 * 1024
"""Size in bytes above which a body is decoded in another thread, so that it does not delay other requests."""
_SECONDS_AT_A_TIME = 0.001
"""Time in seconds after which decoding in another thread lets the event loop's thread run."""
_SPANS_PER_WRITE = 250
"""Maximum number of spans in one transaction. It is small, so that other writes wait only a few milliseconds."""
_MAX_REASONS, _MAX_REASON = 5, 200
_RPC_CODES = {400: 3, 413: 8, 415: 3, 503: 14}
"""The google.rpc.Status code for each HTTP status."""


class _Rejections:
    """The number of rejected spans, and the first few distinct reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._reasons: dict[str, None] = {}

    def add(self, reason: str, count: int = 1) -> None:
        self.count += count
        if len(self._reasons) < _MAX_REASONS:
            self._reasons[reason[:_MAX_REASON]] = None

    @property
    def message(self) -> str:
        return "; ".join(self._reasons)


class OtlpReceiver:
    """Stores the spans from OTLP requests, except spans of attempts that the request's token does not permit.

    `token_attempt` returns the attempt to which a request's token is restricted, or None if it is not restricted.
    """

    def __init__(
        self, store: SqlStore, admission: AdmissionControl, token_attempt: Callable[[Scope], AttemptIds | None]
    ) -> None:
        self._store = store
        self._admission = admission
        self._token_attempt = token_attempt
        self._decoding = asyncio.Lock()
        """Ensures that only one large body is decoded at a time, because every running thread delays the event loop."""

    async def post_traces(self, request: Request) -> Response:
        """Store the spans from a request, and report the number of rejected spans in the response.

        Raises `Unauthorized`, before the body is read, if the request's attempt token is no longer valid.
        """
        if token_attempt := self._token_attempt(request.scope):
            await self._store.check_attempt_token(*token_attempt, self._admission.limits.attempt_token_seconds)
        media_type = request.headers.get("content-type", PROTOBUF).partition(";")[0].strip().lower()
        if media_type not in (JSON, PROTOBUF):
            return _failure(JSON, 415, f"{PATH} accepts {PROTOBUF} and {JSON}, not {media_type}")
        try:
            with await self._admission.admit(request.scope, request.receive) as permit:
                rejections = await self._store_body(permit.body, media_type, request)
        except (InvalidInput, StoreUnavailable) as error:
            status = 413 if isinstance(error, TooLarge) else 400 if isinstance(error, InvalidInput) else 503
            return _failure(media_type, status, str(error))
        return _success(media_type, rejections)

    async def _store_body(self, body: bytes, media_type: str, request: Request) -> _Rejections:
        """Store the spans from a request body, and return the rejections."""
        rejections = _Rejections()
        received = await self._decode(body, media_type, request, rejections)
        baggage = _baggage(request)
        named = [(each.span, each.by_span or baggage or each.by_resource) for each in received]
        spans: list[EncodedSpan] = []
        for span, ids in await self._assign(named, self._token_attempt(request.scope)):
            if isinstance(ids, str):
                rejections.add(ids)
            else:
                span.rollout_id, span.attempt_id = ids
                spans.append(span)
        for start in range(0, len(spans), _SPANS_PER_WRITE):
            await self._add(spans[start : start + _SPANS_PER_WRITE], rejections)
        return rejections

    async def _decode(
        self, body: bytes, media_type: str, request: Request, rejections: _Rejections
    ) -> list[ReceivedSpan]:
        limits = self._admission.limits
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding == "gzip" and len(body) < _THREAD_THRESHOLD:
            with suppress(TooLarge):  # decompress it in the thread instead
                body, encoding = decompress(body, min(_THREAD_THRESHOLD, limits.unpacked)), "identity"
        decoding = _valid(decode_request(body, encoding, as_json=media_type == JSON, limits=limits), rejections)
        if encoding == "identity" and len(body) <= _THREAD_THRESHOLD:
            decoded = await map_in_slices(lambda each: each, decoding)
        else:
            async with self._decoding:
                decoded = await asyncio.to_thread(lambda: list(_releasing_gil(decoding)))
        return [each for each in decoded if each is not None]

    async def _assign(
        self, named: Sequence[NamedSpan], token_attempt: AttemptIds | None
    ) -> list[tuple[EncodedSpan, AttemptIds | str]]:
        """Return each span with the ids of its attempt, or with the reason why the span must be rejected."""
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
        """Find the attempts for spans that do not name one: map trace ids to attempts that have spans in the trace.

        These are the live attempts in the database and in this request. If there are none, they are the ended attempts
        that spans in this request name.
        """
        unnamed = {span.trace_id for span, ids in named if ids is None}
        found = await self._store.live_attempts_by_trace(unnamed)
        for span, ids in named:
            if ids is not None and ids in live and span.trace_id in unnamed:
                found.setdefault(span.trace_id, set()).add(ids)
        return {trace: {each for each in every if live.get(each, True)} or every for trace, every in found.items()}

    async def _add(self, spans: list[EncodedSpan], rejections: _Rejections) -> None:
        """Store spans, except those of an attempt that has been deleted meanwhile or cannot have more late spans."""
        try:
            await self._store.add_encoded_spans(spans)
        except (NotFound, FinalStatus) as error:
            by_attempt: dict[AttemptIds, list[EncodedSpan]] = {}
            for span in spans:
                by_attempt.setdefault((span.rollout_id, span.attempt_id), []).append(span)
            if len(by_attempt) == 1:
                rejections.add(str(error), len(spans))
                return
            for part in by_attempt.values():
                await self._add(part, rejections)


def _valid(decoding: Iterator[ReceivedSpan | str | None], rejections: _Rejections) -> Iterator[ReceivedSpan | None]:
    """Yield everything except error messages, which are added to `rejections`."""
    for each in decoding:
        if isinstance(each, str):
            rejections.add(each)
        else:
            yield each


def _releasing_gil(received: Iterator[T]) -> Iterator[T]:
    """Release the GIL about every millisecond while decoding spans, so that the event loop's thread can run.

    Otherwise, that thread would wait 5 ms (Python's switch interval) for the GIL after each of its system calls.
    """
    started = time.monotonic()
    for each in received:
        yield each
        if time.monotonic() - started > _SECONDS_AT_A_TIME:
            time.sleep(0)
            started = time.monotonic()


def _permitted(ids: AttemptIds, token_attempt: AttemptIds) -> AttemptIds | str:
    return ids if ids == token_attempt else f"this token is not valid for attempt {ids[1]} of rollout {ids[0]}"


def _existing(ids: AttemptIds, live: Mapping[AttemptIds, bool], span: EncodedSpan) -> AttemptIds | str:
    return ids if ids in live else f"span {span.name!r}: there is no attempt {ids[1]} of rollout {ids[0]}"


def _only(attempts: Collection[AttemptIds], span: EncodedSpan) -> AttemptIds | str:
    if len(attempts) == 1:
        return next(iter(attempts))
    if not attempts:
        return f"neither span {span.name!r} nor its trace belongs to an attempt"
    return (
        f"the attempt of span {span.name!r} is ambiguous, because {len(attempts)} attempts share its trace: set the "
        f"attributes {ROLLOUT_ID} and {ATTEMPT_ID}"
    )


def _baggage(request: Request) -> AttemptIds | None:
    entries = (entry.partition(";")[0].partition("=") for entry in request.headers.get("baggage", "").split(","))
    return attempt_in({name.strip(): unquote(value.strip()) for name, _, value in entries})


# Responses, in the media type of the request


def _success(media_type: str, rejections: _Rejections) -> Response:
    answer = ExportTraceServiceResponse()
    if rejections.count:
        answer.partial_success.rejected_spans = rejections.count
        answer.partial_success.error_message = rejections.message
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
