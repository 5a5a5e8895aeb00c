"""The record of an LLM call, made of the raw bodies that the wire tap kept.

The agent's thread only keeps them; reading them takes several times as long, and anybody can do it later. `completed`
does it: in the exporter's thread, or at once where others listen to the span as well.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from .. import semconv
from . import call_attributes, sse
from .body_size import cut_to_size
from .dialects import Dialect, dialect_of
from .dialects.base import Json, as_object

UNREAD: Final = "agentlightning.unread"
"""True on a span whose bodies have not been read yet; never stored."""
EVENTS: Final = "agentlightning.response.events"
"""A streamed answer's events as they came, until they are folded; never stored."""
ERROR_MESSAGE: Final = "error.message"
"""What the model's server says went wrong."""


def completed(seen: Json) -> Json:
    """The attributes of a call's span with all that its raw bodies say. Never raises: what cannot be read is noted."""
    kept = {key: value for key, value in seen.items() if key not in (UNREAD, EVENTS)}
    try:
        request = read_object(seen[semconv.REQUEST])
        if dialect := dialect_of(seen["url.path"], request):
            kept = {**call_attributes.of_request(dialect, request), **kept}
            kept.update(_answer(dialect, seen))
    except Exception as error:
        kept[semconv.CAPTURE_ERROR] = f"{type(error).__name__}: {error}"
    if not kept.get(semconv.INCOMPLETE):
        kept.pop(semconv.INCOMPLETE, None)
    return kept


def read_object(text: str | bytes) -> Json:
    """The JSON object; empty where it is none."""
    try:
        return as_object(orjson.loads(text))
    except orjson.JSONDecodeError:
        return {}


def error_message(body: Json) -> str | None:
    """What the body says went wrong, where it says so."""
    error: Any = body.get("error")
    return str(as_object(error).get("message", error)) if error else None


def _answer(dialect: Dialect, seen: Json) -> Json:
    if EVENTS in seen:
        return _streamed(dialect, seen[EVENTS].encode())
    if text := seen.get(semconv.RESPONSE):
        return _whole(dialect, text.encode())
    return {}


def _streamed(dialect: Dialect, stream: bytes) -> Json:
    events = sse.events(stream)
    # SDKs stop reading at the server's last word, and close: that is no early end.
    ended = sse.has_ended(stream, events[-1] if events else None)
    attributes = _whole(dialect, orjson.dumps(dialect.fold(events)))
    return {**attributes, semconv.INCOMPLETE: False} if ended else attributes


def _whole(dialect: Dialect, raw: bytes) -> Json:
    body = read_object(raw)
    if not body:
        return {semconv.CAPTURE_ERROR: f"the answer of {len(raw)} bytes is not a JSON object"}
    if message := error_message(body):
        return {semconv.RESPONSE: cut_to_size(raw).decode(), ERROR_MESSAGE: message}
    kept = cut_to_size(raw)
    if kept is not raw:
        body = read_object(kept) or {key: body[key] for key in ("id", "model", "usage") if key in body}
    attributes = {**call_attributes.of_response(dialect, body), semconv.RESPONSE: kept.decode()}
    return attributes if kept else {**attributes, semconv.CAPTURE_ERROR: f"{len(raw)} bytes are too many to keep"}
