"""Records one HTTP request to a model server as one span, from the request until the response is complete.

Recording must not interfere with the call: every entry point catches its own errors and records them on the span. A
span ends exactly once, at the first of these events: the end of the response, an error, the closing of the response, or
garbage collection.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec

import orjson
from opentelemetry import context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .. import semconv
from .call_record import (
    ERROR_MESSAGE,
    MAX_BODY_BYTES,
    RAW_EVENTS,
    UNDECODED,
    cut_to_size,
    decode_call,
    error_message,
    parse_object,
)
from .context import CALL_SPAN, IN_REQUEST, parent_context, recording_context
from .dialects import ApiDialect, dialect_of, openai
from .dialects.base import Json

logger = logging.getLogger("agentlightning.instrumentation")

MAX_STREAM_BYTES = 16_000_000
"""Maximum number of bytes recorded from a stream. The user always receives the whole stream."""

P = ParamSpec("P")


def abandons_on_error(
    function: Callable[Concatenate[OpenCall, P], None],
) -> Callable[Concatenate[OpenCall, P], None]:
    """Decorate a function that records a call so that it never raises. An error ends the call's record."""

    @wraps(function)
    def safe(call: OpenCall, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(call, *args, **kwargs)
        except Exception as error:
            logger.debug("An LLM call could not be recorded", exc_info=True)
            call.abandon(error)

    return safe


class OpenCall:
    """A call whose response is not complete yet. Use it as a context manager while the request is being sent."""

    def __init__(self, span: Span, attributes: Json, *, eager_decode: bool, is_foreign: bool) -> None:
        self._span = span
        self._attributes = attributes
        self._eager_decode = eager_decode
        self._is_foreign = is_foreign
        """True if third-party instrumentation owns the span and sets its status and end."""
        self._ended = False
        self._error: str | None = None
        self._is_stream = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._status = 0
        self._decompress: Callable[[bytes], bytes] = bytes
        _open_calls.add(self)

    @property
    def span_id(self) -> int:
        """The id of the span that records the call."""
        return self._span.get_span_context().span_id

    def __enter__(self) -> None:
        self._token = IN_REQUEST.set(True)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        IN_REQUEST.reset(self._token)
        if error is not None:
            self.fail(error)

    @abandons_on_error
    def record_response(self, status: int, content: bytes) -> None:
        """Record the complete response."""
        self._status, self._chunks = status, [content]
        self._end()

    @abandons_on_error
    def start_response(
        self, status: int, headers: Mapping[str, str], decompress: Callable[[bytes], bytes] = bytes
    ) -> None:
        """Record the start of a response. Pass its body to `add_chunk`. `decompress` reverses the content encoding."""
        self._status, self._decompress = status, decompress
        self._is_stream = "text/event-stream" in headers.get("content-type", "")

    def add_chunk(self, chunk: bytes) -> None:
        """Record a chunk of the response body. After `MAX_STREAM_BYTES`, only count its bytes."""
        if self._size < MAX_STREAM_BYTES:
            self._chunks.append(chunk)
        self._size += len(chunk)

    def record_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks of a response, and record them and the end or error of the response."""
        try:
            for chunk in chunks:
                self.add_chunk(chunk)
                yield chunk
        except Exception as error:
            self.fail(error)
            raise
        self.finish(complete=True)

    @abandons_on_error
    def finish(self, *, complete: bool) -> None:
        """End the record at the end of the response, or when the rest of the response will not be read."""
        if not self._ended:
            self._attributes[semconv.INCOMPLETE] = not complete
            self._end()

    @abandons_on_error
    def fail(self, error: BaseException) -> None:
        """End the record with an error that occurred during the request or the response."""
        if not self._ended:
            self._attributes["error.type"] = type(error).__qualname__
            self._attributes[semconv.INCOMPLETE] = self._is_stream
            self._set_error(f"{type(error).__name__}: {error}")
            self._end()

    def abandon(self, error: Exception) -> None:
        """End a record that cannot be completed because recording failed, and set the error on the span."""
        self._ended = True
        if self._span.is_recording():
            self._span.set_attribute(semconv.CAPTURE_ERROR, f"{type(error).__name__}: {error}")
            self._end_span()

    def _end(self) -> None:
        self._ended = True
        content, attributes = self._decompress(b"".join(self._chunks)), self._attributes
        self._chunks = []
        if self._status:
            attributes["http.response.status_code"] = self._status
        if self._status >= 400:
            self._set_error(_error_description(self._status, content))
        if self._size > MAX_STREAM_BYTES:
            attributes[semconv.CAPTURE_ERROR] = f"only {MAX_STREAM_BYTES} of {self._size} bytes were recorded"
        if self._is_stream:
            attributes[semconv.STREAMED] = True
        if content:
            attributes[RAW_EVENTS if self._is_stream else semconv.RESPONSE] = content.decode("utf-8", "replace")
        if self._eager_decode:
            attributes = decode_call(attributes)
            if message := attributes.get(ERROR_MESSAGE):
                self._set_error(message)
        else:
            attributes[UNDECODED] = True
        self._span.set_attributes(attributes)
        self._end_span()

    def _end_span(self) -> None:
        if not self._is_foreign:
            self._span.end()

    def _set_error(self, description: str) -> None:
        # Keep the first error: a later one comes from the response body and repeats the first with less context.
        if not self._is_foreign and self._error is None:
            self._error = description
            self._span.set_status(Status(StatusCode.ERROR, description))


_open_calls: weakref.WeakSet[OpenCall] = weakref.WeakSet()
"""Weak references to the calls whose spans have not ended."""


def close_open_calls(predicate: Callable[[int], bool]) -> None:
    """End the record of every open call whose span id satisfies `predicate`, with the data received so far."""
    for call in list(_open_calls):
        if predicate(call.span_id):
            call.finish(complete=False)


def start_call(
    host: str | None, port: int | None, path: str, headers: Mapping[str, str], content: bytes | None
) -> OpenCall | None:
    """Start recording a POST request. Return None if it is not a call to a model or calls are not recorded."""
    recording = recording_context()
    if recording is None or recording.call_tracer is None or not isinstance(content, bytes):
        return None
    dialect = _dialect(path, content)
    if dialect is None:
        return None
    attributes = _request_attributes(host, port, path, headers)
    attributes[semconv.REQUEST] = content.decode("utf-8", "replace")
    if len(content) > MAX_BODY_BYTES:
        attributes.update(_cut_request(dialect, content))
    # Third-party instrumentation may have created a span for this call: complete it instead of creating another.
    foreign = context.get_value(CALL_SPAN)
    if isinstance(foreign, Span) and foreign.is_recording():
        return OpenCall(foreign, attributes, eager_decode=recording.eager_decode, is_foreign=True)
    span = recording.call_tracer.start_span(dialect.span_name, parent_context(), SpanKind.CLIENT)
    return OpenCall(span, attributes, eager_decode=recording.eager_decode, is_foreign=False)


def _request_attributes(host: str | None, port: int | None, path: str, headers: Mapping[str, str]) -> Json:
    retries = headers.get("x-stainless-retry-count", "")
    attributes: Json = {
        "server.address": host,
        "server.port": port,
        "http.request.resend_count": int(retries) if retries.isdecimal() else 0,
    }
    return {"url.path": path} | {name: value for name, value in attributes.items() if value}


def _dialect(path: str, content: bytes) -> ApiDialect | None:
    # Only chat completions use this path. Other paths are also used by unrelated requests, so check the body.
    if path.endswith("/chat/completions"):
        return openai.CHAT
    return dialect_of(path, parse_object(content))


def _cut_request(dialect: ApiDialect, content: bytes) -> Json:
    if cut := cut_to_size(content):
        return {semconv.REQUEST: cut.decode()}
    head = {dialect.input_field: None, "model": parse_object(content).get("model")}
    note = f"a body of {len(content)} bytes is too large to record"
    return {semconv.REQUEST: orjson.dumps(head).decode(), semconv.CAPTURE_ERROR: note}


def _error_description(status: int, content: bytes) -> str:
    message = error_message(parse_object(content)) or content[:500].decode("utf-8", "replace")
    return f"HTTP {status}: {message}" if message else f"HTTP {status}"
