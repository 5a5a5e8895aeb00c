"""One HTTP request to a model, from when it is sent until its answer is complete, as one span.

Nothing in here may disturb the call: every entry point swallows its own errors and leaves a note on the span. A span
ends exactly once, whichever comes first: the answer's end, an error, `close`, or the garbage collector.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import orjson
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from .. import semconv
from . import call_attributes, sse
from .body_size import cut_to_size
from .dialects import Dialect, dialect_of
from .dialects.base import Json, as_object
from .listening import hosted_call_span

logger = logging.getLogger("agentlightning.instrumentation")

LARGEST_STREAM = 16_000_000
"""Bytes of a stream that are kept for its record; the user gets all of them in any case."""

P = ParamSpec("P")


def _never_raises(
    method: Callable[Concatenate[OpenCall, P], None],
) -> Callable[Concatenate[OpenCall, P], None]:
    @wraps(method)
    def guarded(call: OpenCall, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(call, *args, **kwargs)
        except Exception as error:
            logger.debug("An LLM call could not be recorded", exc_info=True)
            call.give_up(error)

    return guarded


class OpenCall:
    """A call that has been sent."""

    def __init__(self, span: Span, dialect: Dialect, *, hosted: bool) -> None:
        self._span = span
        self._hosted = hosted
        """Whether the span is other instrumentation's: its status and its end are not ours to set."""
        self._dialect = dialect
        self._ended = False
        self._streamed = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._status = 0
        self._decode: Callable[[bytes], bytes] = bytes
        open_calls.add(self)

    @property
    def span_id(self) -> int:
        """Of the span that records it."""
        return self._span.get_span_context().span_id

    @_never_raises
    def answered(self, status: int, content: bytes) -> None:
        """The whole answer is here."""
        self._status = status
        self._end(content, complete=True)

    @_never_raises
    def answering(self, status: int, decode: Callable[[bytes], bytes], *, as_events: bool) -> None:
        """The answer has begun; its bytes will come through `saw`, `decode` undoes their content encoding."""
        self._status, self._decode, self._streamed = status, decode, as_events

    def saw(self, chunk: bytes) -> None:
        """Another piece of the answer."""
        if self._size < LARGEST_STREAM:
            self._chunks.append(chunk)
        self._size += len(chunk)

    @_never_raises
    def finished(self, *, complete: bool) -> None:
        """No more will come, or nobody wants more."""
        if not self._ended:
            self._end(self._decode(b"".join(self._chunks)), complete=complete)

    @_never_raises
    def failed(self, error: BaseException) -> None:
        """The request or the answer broke."""
        if self._ended:
            return
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._set_error(f"{type(error).__name__}: {error}")
        self._end(self._decode(b"".join(self._chunks)), complete=False)

    def give_up(self, error: Exception) -> None:
        """It cannot be recorded properly: say so and end the span."""
        self._ended = True
        if self._span.is_recording():
            self._span.set_attribute(semconv.CAPTURE_ERROR, f"{type(error).__name__}: {error}")
            self._end_span()

    def _end(self, content: bytes, *, complete: bool) -> None:
        self._ended = True
        self._chunks = []
        if self._status:
            self._span.set_attribute("http.response.status_code", self._status)
        if content:
            self._record(content, complete=complete)
        if self._status >= 400 and not content:
            self._set_error(f"HTTP {self._status}")
        self._end_span()

    def _end_span(self) -> None:
        if not self._hosted:
            self._span.end()

    def _set_error(self, description: str) -> None:
        if not self._hosted:
            self._span.set_status(Status(StatusCode.ERROR, description))

    def _record(self, content: bytes, *, complete: bool) -> None:
        span = self._span
        body = self._folded(content, complete=complete) if self._streamed else _object(content)
        if body is None:
            span.set_attribute(semconv.CAPTURE_ERROR, f"the answer of {len(content)} bytes is not a JSON object")
        elif error := body.get("error"):
            self._record_error(error, content)
        else:
            raw, body = _fitting(orjson.dumps(body) if self._streamed else content, body)
            span.set_attributes({**_raw(semconv.RESPONSE, raw), **call_attributes.of_response(self._dialect, body)})
        if self._status >= 400 and not (body and body.get("error")):
            self._set_error(f"HTTP {self._status}: {content[:500].decode('utf-8', 'replace')}")

    def _record_error(self, error: Any, content: bytes) -> None:
        message = as_object(error).get("message", error)
        said = f"HTTP {self._status}: {message}" if self._status >= 400 else str(message)
        self._span.set_attributes(_raw(semconv.RESPONSE, cut_to_size(content)))
        self._set_error(said)

    def _folded(self, content: bytes, *, complete: bool) -> Json:
        events = sse.events(content)
        self._span.set_attribute(semconv.STREAMED, True)
        if self._size >= LARGEST_STREAM:
            self._span.set_attribute(semconv.CAPTURE_ERROR, f"only {LARGEST_STREAM} of {self._size} bytes were kept")
        if not complete and not sse.has_ended(content, events[-1] if events else None):
            self._span.set_attribute(semconv.INCOMPLETE, True)
        return self._dialect.fold(events)


open_calls: weakref.WeakSet[OpenCall] = weakref.WeakSet()
"""Calls whose spans have not ended, as far as somebody still holds them."""


def begin(tracer: Tracer, path: str, content: bytes, host: Json) -> OpenCall | None:
    """Start the record of a request with this URL path and body, where it is a call to a model."""
    body = _object(content) or {}
    dialect = dialect_of(path, body)
    if dialect is None:
        return None
    raw, body = _fitting(content, body)
    attributes = {**call_attributes.of_request(dialect, body), **_raw(semconv.REQUEST, raw), **host}
    if hosted := hosted_call_span():
        hosted.set_attributes(attributes)
        return OpenCall(hosted, dialect, hosted=True)
    span = tracer.start_span(dialect.span_name, kind=SpanKind.CLIENT, attributes=attributes)
    return OpenCall(span, dialect, hosted=False)


def _object(content: bytes) -> Json | None:
    try:
        return as_object(orjson.loads(content)) or None
    except orjson.JSONDecodeError:
        return None


def _fitting(content: bytes, body: Json) -> tuple[bytes, Json]:
    """The body as text and as an object, both cut where it is too large; what cannot be cut loses all but its head."""
    cut = cut_to_size(content)
    if cut is content:
        return content, body
    return cut, _object(cut) or {key: body[key] for key in ("id", "model", "usage") if key in body}


def _raw(name: str, content: bytes) -> Json:
    if not content:
        return {semconv.CAPTURE_ERROR: f"{name} is too large to be recorded"}
    return {name: content.decode("utf-8", "replace")}
