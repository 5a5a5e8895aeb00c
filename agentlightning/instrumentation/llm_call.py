"""One HTTP request to a model, from when it is sent until its answer is complete, as one span.

Nothing in here may disturb the call: every entry point swallows its own errors and leaves a note on the span. A span
ends exactly once, whichever comes first: the answer's end, an error, `close`, or the garbage collector.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec

import orjson
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .. import semconv
from . import langchain
from .body_size import LARGEST_BODY, cut_to_size
from .call_record import ERROR_MESSAGE, EVENTS, UNREAD, completed, error_message, read_object
from .context import Listener, hosted_call_span
from .dialects import Dialect, chat, dialect_of, may_be_call
from .dialects.base import Json

__all__ = ["OpenCall", "begin", "host_attributes", "may_be_call", "open_calls"]

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

    def __init__(self, span: Span, attributes: Json, *, at_once: bool, hosted: bool) -> None:
        self._span = span
        self._attributes = attributes
        self._at_once = at_once
        self._hosted = hosted
        """Whether the span is other instrumentation's: its status and its end are not ours to set."""
        self._ended = False
        self._error: str | None = None
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
        self._end(content)

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
            self._attributes[semconv.INCOMPLETE] = not complete
            self._end(self._decode(b"".join(self._chunks)))

    @_never_raises
    def failed(self, error: BaseException) -> None:
        """The request or the answer broke."""
        if not self._ended:
            self._attributes["error.type"] = type(error).__qualname__
            self._attributes[semconv.INCOMPLETE] = self._streamed
            self._set_error(f"{type(error).__name__}: {error}")
            self._end(self._decode(b"".join(self._chunks)))

    def give_up(self, error: Exception) -> None:
        """It cannot be recorded properly: say so and end the span."""
        self._ended = True
        if self._span.is_recording():
            self._span.set_attribute(semconv.CAPTURE_ERROR, f"{type(error).__name__}: {error}")
            self._end_span()

    def _end(self, content: bytes) -> None:
        self._ended = True
        self._chunks = []
        attributes = self._attributes
        if self._status:
            attributes["http.response.status_code"] = self._status
        if self._status >= 400:
            self._set_error(_refusal(self._status, content))
        if self._size > LARGEST_STREAM:
            attributes[semconv.CAPTURE_ERROR] = f"only {LARGEST_STREAM} of {self._size} bytes were kept"
        if self._streamed:
            attributes[semconv.STREAMED] = True
        if content:
            attributes[EVENTS if self._streamed else semconv.RESPONSE] = content.decode("utf-8", "replace")
        self._span.set_attributes(self._read() if self._at_once else {**attributes, UNREAD: True})
        self._end_span()

    def _read(self) -> Json:
        attributes = completed(self._attributes)
        if message := attributes.get(ERROR_MESSAGE):
            self._set_error(message)
        return attributes

    def _end_span(self) -> None:
        if not self._hosted:
            self._span.end()

    def _set_error(self, description: str) -> None:
        # The first one counts: later ones are read from a body that says the same with less context.
        if not self._hosted and self._error is None:
            self._error = description
            self._span.set_status(Status(StatusCode.ERROR, description))


open_calls: weakref.WeakSet[OpenCall] = weakref.WeakSet()
"""Calls whose spans have not ended, as far as somebody still holds them."""


def begin(listener: Listener, path: str, content: bytes, host: Json) -> OpenCall | None:
    """Start the record of a request with this URL path and body, where it is a call to a model."""
    dialect = _dialect(path, content)
    if dialect is None or listener.instrument_with is None:
        return None
    attributes = {**host, semconv.REQUEST: content.decode("utf-8", "replace")}
    if len(content) > LARGEST_BODY:
        attributes.update(_cut(dialect, content))
    hosted = hosted_call_span()
    span = hosted or listener.instrument_with.start_span(dialect.span_name, langchain.around(), SpanKind.CLIENT)
    return OpenCall(span, attributes, at_once=listener.read_at_once, hosted=hosted is not None)


def host_attributes(host: str | None, port: int | None, path: str, headers: Mapping[str, str]) -> Json:
    """Where a request goes, and how often it has been sent before."""
    found: Json = {"url.path": path}
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    resent = headers.get("x-stainless-retry-count", "0")
    if resent.isdecimal() and resent != "0":
        found["http.request.resend_count"] = int(resent)
    return found


def _dialect(path: str, content: bytes) -> Dialect | None:
    # This path says it all; others are also those of quite different requests.
    if path.endswith("/chat/completions"):
        return chat.DIALECT
    return dialect_of(path, read_object(content))


def _cut(dialect: Dialect, content: bytes) -> Json:
    if cut := cut_to_size(content):
        return {semconv.REQUEST: cut.decode()}
    head = {dialect.asked_by: None, "model": read_object(content).get("model")}
    note = f"{len(content)} bytes are too many to keep"
    return {semconv.REQUEST: orjson.dumps(head).decode(), semconv.CAPTURE_ERROR: note}


def _refusal(status: int, content: bytes) -> str:
    said = error_message(read_object(content)) or content[:500].decode("utf-8", "replace")
    return f"HTTP {status}: {said}" if said else f"HTTP {status}"
