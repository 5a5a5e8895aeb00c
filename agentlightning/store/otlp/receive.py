"""Spans from any OpenTelemetry exporter: `POST /v1/traces`, protobuf or JSON, gzip or plain.

A span belongs to the attempt that its attributes name, else the baggage header, else its resource's attributes, else
to whom the rest of its trace belongs. What belongs to nobody is left out, and the answer says how much that was.
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
from starlette.routing import Route

from ...errors import InvalidInput, NotFound, StoreUnavailable, TooLarge
from ...http.limits import Gate, Limits
from ..encoded_span import EncodedSpan
from ..http.auth import SPEAKS_FOR
from ..sql import SqlStore
from .decode import Arrived, AttemptIds, Refused, ids_in, parse, read

PATH = "/v1/traces"
_JSON = "application/json"
_PROTOBUF = "application/x-protobuf"
_PIECE = 256 * 1024
_LARGE = 64 * 1024
"""A body from this size on is read in a thread, so that nobody else waits for it."""
_GOOGLE_CODES = {400: 3, 403: 7, 413: 8, 415: 3, 503: 14}


class Otlp:
    """Takes spans into one store."""

    def __init__(self, store: SqlStore, gate: Gate) -> None:
        self._store = store
        self._gate = gate

    def routes(self) -> list[Route]:
        return [Route(PATH, self._take, methods=["POST"])]

    async def _take(self, request: Request) -> Response:
        kind = request.headers.get("content-type", _PROTOBUF).partition(";")[0].strip().lower()
        if kind not in (_JSON, _PROTOBUF):
            return _failure(_JSON, 415, f"{PATH} takes {_PROTOBUF} and {_JSON}, not {kind}")
        try:
            refused = await self._store_body(request, kind)
        except ConnectionResetError:
            return Response(status_code=499)
        except TooLarge as error:
            return _failure(kind, 413, str(error))
        except InvalidInput as error:
            return _failure(kind, 400, str(error))
        except StoreUnavailable as error:
            return _failure(kind, 503, str(error))
        return _success(kind, refused)

    async def _store_body(self, request: Request, kind: str) -> list[str]:
        body = await self._gate.enter(request.scope, request.receive)
        try:
            return await self._store_all(await _arrivals(body, request, kind, self._gate.limits), request)
        finally:
            self._gate.leave(len(body))

    async def _store_all(self, arrivals: Sequence[Arrived | Refused], request: Request) -> list[str]:
        """Store what can be; why the rest cannot."""
        refused = [each.why for each in arrivals if isinstance(each, Refused)]
        owned = await self._owned([each for each in arrivals if isinstance(each, Arrived)], _baggage(request))
        known = await self._store.attempts_among({ids for _, ids in owned if ids})
        speaks_for: Callable[[str, str], bool] = request.scope.get(SPEAKS_FOR, _for_everybody)
        spans: list[EncodedSpan] = []
        for span, ids in owned:
            if ids and not speaks_for(*ids):
                refused.append(f"this token does not speak for attempt {ids[1]} of rollout {ids[0]}")
            elif not ids or ids not in known:
                refused.append(f"span {span.name!r} belongs to no attempt of this store" + _named(ids))
            else:
                span.rollout_id, span.attempt_id = ids
                spans.append(span)
        return refused + await self._add(spans)

    async def _add(self, spans: list[EncodedSpan]) -> list[str]:
        try:
            await self._store.add_encoded_spans(spans)
        except NotFound as error:  # an attempt was deleted meanwhile
            return [str(error)] * len(spans)
        return []

    async def _owned(
        self, arrivals: list[Arrived], baggage: AttemptIds | None
    ) -> list[tuple[EncodedSpan, AttemptIds | None]]:
        said = [(each.span, each.own or baggage or each.resource) for each in arrivals]
        traces = {span.trace_id: ids for span, ids in said if ids}
        unknown = {span.trace_id for span, ids in said if not ids} - traces.keys()
        traces |= await self._store.attempts_of_traces(unknown)
        return [(span, ids or traces.get(span.trace_id)) for span, ids in said]


def _for_everybody(rollout_id: str, attempt_id: str) -> bool:
    return True


def _named(ids: AttemptIds | None) -> str:
    return f": there is no attempt {ids[1]} of rollout {ids[0]}" if ids else ", and names none"


def _baggage(request: Request) -> AttemptIds | None:
    entries = (entry.partition(";")[0].partition("=") for entry in request.headers.get("baggage", "").split(","))
    return ids_in({name.strip(): unquote(value.strip()) for name, _, value in entries})


# The body


async def _arrivals(body: bytes, request: Request, kind: str, limits: Limits) -> list[Arrived | Refused]:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    work = partial(_read, body, encoding, as_json=kind == _JSON, most=limits.unpacked)
    return await asyncio.to_thread(work) if len(body) >= _LARGE else work()


def _read(body: bytes, encoding: str, *, as_json: bool, most: int) -> list[Arrived | Refused]:
    if encoding == "gzip":
        body = unpacked(body, most)
    elif encoding != "identity":
        raise InvalidInput(f"{PATH} takes gzip or nothing as content encoding, not {encoding}", field="body")
    return list(read(parse(body, as_json=as_json)))


def unpacked(body: bytes, limit: int) -> bytes:
    """What gzip has packed. Raises `TooLarge` once it is more than `limit`, `InvalidInput` if it is none."""
    # Gzip ends with its own size. Who tells the truth is refused at once, who lies when the limit is reached.
    if int.from_bytes(body[-4:], "little") > limit:
        raise _too_large(limit)
    found = bytearray()
    try:
        while body:
            body = _unpack_member(body, found, limit)
    except zlib.error as error:
        raise InvalidInput(f"the body is not gzip: {error}", field="body") from None
    return bytes(found)


def _unpack_member(body: bytes, found: bytearray, limit: int) -> bytes:
    """Unpack one member into `found`; what follows it."""
    unpacking = zlib.decompressobj(wbits=31)
    while not unpacking.eof:
        piece = unpacking.decompress(body, _PIECE)
        body = unpacking.unconsumed_tail
        if not piece and not body and not unpacking.eof:
            raise InvalidInput("the body is gzip that ends too early", field="body")
        found += piece
        if len(found) > limit:
            raise _too_large(limit)
    return unpacking.unused_data


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit // (1024 * 1024)} MiB when unpacked", field="body")


# The answer, in the request's own content type


def _success(kind: str, refused: list[str]) -> Response:
    why = "; ".join(dict.fromkeys(refused))[:1000]
    if kind == _JSON:
        partial_success = {"rejectedSpans": str(len(refused)), "errorMessage": why}
        return Response(orjson.dumps({"partialSuccess": partial_success} if refused else {}), media_type=_JSON)
    answer = ExportTraceServiceResponse()
    if refused:
        answer.partial_success.rejected_spans = len(refused)
        answer.partial_success.error_message = why
    return Response(answer.SerializeToString(), media_type=_PROTOBUF)


def _failure(kind: str, status: int, message: str) -> Response:
    # Never 429: exporters may take that for final, and 503 is what the protocol has for a server that is busy.
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(_status(kind, _GOOGLE_CODES[status], message), status, headers, media_type=kind)


def _status(kind: str, code: int, message: str) -> bytes:
    if kind == _JSON:
        return orjson.dumps({"code": code, "message": message})
    # google.rpc.Status, which has its two fields where this message has them too.
    return ExportTracePartialSuccess(rejected_spans=code, error_message=message).SerializeToString()
