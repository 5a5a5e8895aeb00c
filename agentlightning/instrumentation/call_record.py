"""The record of an LLM call, decoded from the raw bodies that the wire tap kept.

The agent's thread only keeps the bodies, since decoding takes several times as long. `decode_call` runs later in the
export thread, or at once if other span processors read the span as well.
"""

from __future__ import annotations

from typing import Any, Final, cast

import orjson

from .. import semconv
from . import call_attributes, sse
from .dialects import ApiDialect, dialect_of
from .dialects.base import Json, as_object

UNDECODED: Final = "agentlightning.unread"
"""True on a span whose bodies have not been decoded yet; never stored."""
RAW_EVENTS: Final = "agentlightning.response.events"
"""The events of a streamed response as they arrived, until they are folded; never stored."""
ERROR_MESSAGE: Final = "error.message"
"""The error that the model server reports in its response."""

MAX_BODY_BYTES = 2_000_000
"""Larger bodies are recorded with their long texts cut."""
MAX_TEXT_LENGTH = 4_000
"""Characters kept of each text in a body that is too large: enough to recognize an image or a document."""


def decode_call(raw: Json) -> Json:
    """Return the attributes of a call's span with those decoded from its bodies.

    Never raises: an error is recorded as `agentlightning.capture_error`.
    """
    attributes = {key: value for key, value in raw.items() if key not in (UNDECODED, RAW_EVENTS)}
    try:
        request = parse_object(raw[semconv.REQUEST])
        if dialect := dialect_of(raw["url.path"], request):
            attributes = {**call_attributes.of_request(dialect, request), **attributes}
            attributes.update(_response_attributes(dialect, raw))
    except Exception as error:
        attributes[semconv.CAPTURE_ERROR] = f"{type(error).__name__}: {error}"
    if not attributes.get(semconv.INCOMPLETE):
        attributes.pop(semconv.INCOMPLETE, None)
    return attributes


def parse_object(text: str | bytes) -> Json:
    """Parse a JSON object; return an empty one if the text is something else."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return cast("Json", value) if isinstance(value, dict) else {}


def error_message(body: Json) -> str | None:
    """Return the error message in a response body, if there is one."""
    error: Any = body.get("error")
    return str(as_object(error).get("message", error)) if error else None


def cut_to_size(body: bytes) -> bytes:
    """Cut the long texts of a JSON body that is too large; return an empty one if it is still too large."""
    if len(body) <= MAX_BODY_BYTES:
        return body
    try:
        cut = orjson.dumps(_cut(orjson.loads(body)))
    except (orjson.JSONDecodeError, RecursionError):
        return b""
    return cut if len(cut) <= MAX_BODY_BYTES else b""


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
        return f"{value[:MAX_TEXT_LENGTH]}… ({len(value) - MAX_TEXT_LENGTH} characters left out)"
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_cut(item) for item in cast("list[Any]", value)]
    return value


def _response_attributes(dialect: ApiDialect, raw: Json) -> Json:
    if RAW_EVENTS in raw:
        return _stream_attributes(dialect, raw[RAW_EVENTS].encode())
    if text := raw.get(semconv.RESPONSE):
        return _body_attributes(dialect, text.encode())
    return {}


def _stream_attributes(dialect: ApiDialect, stream: bytes) -> Json:
    events = sse.events(stream)
    attributes = _body_attributes(dialect, orjson.dumps(dialect.fold(events)))
    # SDKs stop reading at the server's last event and close the stream: that is not an early end.
    if sse.has_ended(stream, events[-1] if events else None):
        attributes[semconv.INCOMPLETE] = False
    return attributes


def _body_attributes(dialect: ApiDialect, raw: bytes) -> Json:
    body = parse_object(raw)
    if not body:
        return {semconv.CAPTURE_ERROR: f"the response of {len(raw)} bytes is not a JSON object"}
    recorded = cut_to_size(raw)
    if message := error_message(body):
        return {semconv.RESPONSE: recorded.decode(), ERROR_MESSAGE: message}
    if recorded is not raw:
        body = parse_object(recorded) or {key: body[key] for key in ("id", "model", "usage") if key in body}
    attributes = {**call_attributes.of_response(dialect, body), semconv.RESPONSE: recorded.decode()}
    if not recorded:
        attributes[semconv.CAPTURE_ERROR] = f"{len(raw)} bytes are too many to record"
    return attributes
