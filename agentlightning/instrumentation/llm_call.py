"""Recording of LLM calls: each HTTP request to a model server, together with its response, becomes one span.

Recording must not interfere with a call: if recording fails, the error is not raised but saved on the span. The
recording of a call ends at the first of these events: the response ends, an error occurs, the response is closed or
garbage-collected, or the trace context ends.
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
"""Maximum number of bytes of a response that are recorded. The agent still receives the whole response."""

P = ParamSpec("P")


def abandons_on_error(
    function: Callable[Concatenate[OpenCall, P], None],
) -> Callable[Concatenate[OpenCall, P], None]:
    """Decorate a function that records part of a call, so that its errors end the recording and are not raised."""

    @wraps(function)
    def safe(call: OpenCall, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(call, *args, **kwargs)
        except Exception as error:
            logger.debug("An LLM call could not be recorded", exc_info=True)
            call.abandon(error)

    return safe


class OpenCall:
    """An LLM call that is being recorded. Use it as a context manager while the request is being sent."""

    def __init__(self, span: Span, attributes: Json, *, eager_decode: bool, is_foreign: bool) -> None:
        self._span = span
        self._attributes = attributes
        self._eager_decode = eager_decode
        self._is_foreign = is_foreign
        """True if third-party instrumentation created the span and is therefore responsible for its status and end."""
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
        """Record a response that has been received completely, and end the recording."""
        self._status = status
        self.add_chunk(content)
        self._end()

    @abandons_on_error
    def start_response(
        self, status: int, headers: Mapping[str, str], decompress: Callable[[bytes], bytes] = bytes
    ) -> None:
        """Start recording a response whose body is then passed to `add_chunk` in chunks.

        `headers` is used only to detect a stream. `decompress` decodes the content encoding (such as gzip) of the
        recorded body. It may stop once the result is larger than `MAX_STREAM_BYTES`.
        """
        self._status, self._decompress = status, decompress
        self._is_stream = "text/event-stream" in headers.get("content-type", "")

    def add_chunk(self, chunk: bytes) -> None:
        """Record a chunk of the response body. Once `MAX_STREAM_BYTES` have been recorded, only count the bytes."""
        if self._size < MAX_STREAM_BYTES:
            self._chunks.append(chunk[: MAX_STREAM_BYTES - self._size])
        self._size += len(chunk)

    def record_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Record and yield each chunk of a response body. Also record the end of the response or its error."""
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
        """End the recording, unless it has already ended. `complete` is True if the whole response was received."""
        if not self._ended:
            self._attributes[semconv.INCOMPLETE] = not complete
            self._end()

    @abandons_on_error
    def fail(self, error: BaseException) -> None:
        """End the recording, unless it has already ended, and record an error from the request or the response."""
        if not self._ended:
            self._attributes["error.type"] = type(error).__qualname__
            self._attributes[semconv.INCOMPLETE] = self._is_stream
            self._set_error(f"{type(error).__name__}: {error}")
            self._end()

    def abandon(self, error: Exception) -> None:
        """End the recording because it failed. Save the error in the span attribute `agentlightning.capture_error`."""
        self._ended = True
        if self._span.is_recording():
            self._span.set_attribute(semconv.CAPTURE_ERROR, f"{type(error).__name__}: {error}")
            self._end_span()

    def _end(self) -> None:
        self._ended = True
        content, attributes = self._decompress(b"".join(self._chunks)), self._attributes
        self._chunks = []
        self._size = max(self._size, len(content))  # the content may be larger after decompression
        content = content[:MAX_STREAM_BYTES]
        if self._status:
            attributes["http.response.status_code"] = self._status
        if self._status >= 400:
            self._set_error(_error_description(self._status, content))
        if self._size > MAX_STREAM_BYTES:
            attributes[semconv.CAPTURE_ERROR] = f"only the first {MAX_STREAM_BYTES} bytes were recorded"
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
        # Keep the first error. A later one comes from the response body and describes the failure with less context.
        if not self._is_foreign and self._error is None:
            self._error = description
            self._span.set_status(Status(StatusCode.ERROR, description))


_open_calls: weakref.WeakSet[OpenCall] = weakref.WeakSet()
"""Weak references to all calls that are still in memory. The recording of some of them may already have ended."""


def close_open_calls(predicate: Callable[[int], bool]) -> None:
    """End the recording of every call whose span id satisfies `predicate`, and keep the data received so far."""
    for call in list(_open_calls):
        if predicate(call.span_id):
            call.finish(complete=False)


def start_call(
    host: str | None, port: int | None, path: str, headers: Mapping[str, str], content: bytes | None
) -> OpenCall | None:
    """Start recording a POST request.

    Returns None if calls are not recorded in the current context, if the request is not a call to a model, or if its
    body is not a bytes object.
    """
    recording = recording_context()
    if recording is None or recording.call_tracer is None or not isinstance(content, bytes):
        return None
    dialect = _dialect(path, content)
    if dialect is None:
        return None
    attributes = _request_attributes(host, port, path, headers)
    attributes[semconv.REQUEST] = content.decode("utf-8", "replace")
    if len(content) > MAX_BODY_BYTES:
        attributes.update(cut_request(dialect, content))
    # If third-party instrumentation has already created a span for this call, use it instead of creating another.
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
        "http.request.resend_count": int(retries) if retries.isdecimal() and len(retries) < 10 else 0,
    }
    return {"url.path": path} | {name: value for name, value in attributes.items() if value}


def _dialect(path: str, content: bytes) -> ApiDialect | None:
    # Only chat completions use this path. Unrelated requests may use the other paths, so check the body for those.
    if path.endswith("/chat/completions"):
        return openai.CHAT
    return dialect_of(path, parse_object(content))


def cut_request(dialect: ApiDialect, content: bytes) -> Json:
    """Return the span attributes for a request body that is larger than `MAX_BODY_BYTES`.

    Long texts in the body are truncated. If it is still too large, only the model's name is recorded.
    """
    if cut := cut_to_size(content):
        return {semconv.REQUEST: cut.decode()}
    head = {dialect.input_field: None, "model": parse_object(content).get("model")}
    note = f"a body of {len(content)} bytes is too large to record"
    return {semconv.REQUEST: orjson.dumps(head).decode(), semconv.CAPTURE_ERROR: note}


def _error_description(status: int, content: bytes) -> str:
    message = error_message(parse_object(content)) or content[:500].decode("utf-8", "replace")
    return f"HTTP {status}: {message}" if message else f"HTTP {status}"
