"""A span that has ended, on its way to becoming one the store takes.

The agent's thread only keeps what OpenTelemetry hands it. Turning it into our form, and replacing what JSON cannot
carry (one NaN would have a whole batch refused) or nobody should read (API keys), is left to whoever reads it first,
normally the exporter's thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import orjson

from ..instrumentation.call_record import ERROR_MESSAGE, UNREAD, completed
from ..payload import MAX_DEPTH
from ..redaction import may_have_keys, without_keys
from ..types import Span, TraceStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_BASE_SIZE = 400
"""Bytes a span takes in JSON apart from its attributes' texts, roughly."""
_LARGEST, _SMALLEST = 2**63 - 1, -(2**63)
_PLAIN = (str, int)
_MAX_DEPTH = MAX_DEPTH - 4
"""Attributes themselves lie a few levels deep in what the store checks."""


class EndedSpan:
    """An OpenTelemetry span as it ended, or one of ours, with the ids of whom it belongs to."""

    __slots__ = ("_seen", "_span", "attempt_id", "rollout_id", "size")

    def __init__(self, seen: ReadableSpan | Span, rollout_id: str, attempt_id: str) -> None:
        self._seen = seen
        self._span: Span | None = None
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.size = _size(seen)

    @property
    def span(self) -> Span:
        """The span in our form, fit for any store."""
        if self._span is None:
            self._span = self._sound()
        return self._span

    def _sound(self) -> Span:
        seen = self._seen
        span = seen if isinstance(seen, Span) else Span.from_opentelemetry(seen, self.rollout_id, self.attempt_id)
        if UNREAD in span.attributes:
            _read(span)
        span.name = _sound_text(span.name)
        span.attributes = _sound_attributes(span.attributes)
        span.resource.attributes = _sound_attributes(span.resource.attributes)
        if span.status.description:
            span.status.description = _sound_text(span.status.description)
        for event in span.events:
            event.name, event.attributes = _sound_text(event.name), _sound_attributes(event.attributes)
        for link in span.links:
            link.attributes = _sound_attributes(link.attributes or {})
        return span


def _read(span: Span) -> None:
    span.attributes = completed(span.attributes)
    message = span.attributes.get(ERROR_MESSAGE)
    if message and span.status.status_code == "UNSET":
        span.status = TraceStatus(status_code="ERROR", description=message)


def _size(seen: ReadableSpan | Span) -> int:
    # OpenTelemetry's attributes are a class of its own, a hundred times slower to go through than the dict within.
    bounded: Any = getattr(seen, "_attributes", None)
    attributes: Mapping[str, Any] = getattr(bounded, "_dict", None) or seen.attributes or {}
    return _BASE_SIZE + sum([len(value) for value in attributes.values() if type(value) is str])


def _sound_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    return attributes if _are_sound(attributes) else _sound_items(attributes)


def _are_sound(attributes: dict[str, Any]) -> bool:
    """Whether nothing needs to be replaced: a fast look that nearly always says yes, and may say no for no reason."""
    if not all(_is_plain(value) for value in attributes.values()):
        return False
    try:
        text = orjson.dumps(attributes)
    except TypeError:  # half a surrogate pair, or more than 64 bits
        return False
    return not may_have_keys(text)


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(isinstance(item, _PLAIN) for item in cast("list[Any]", value))
    return isinstance(value, _PLAIN)


def _sound_items(attributes: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    return {_sound_text(str(key)): _sound(value, depth + 1) for key, value in attributes.items() if value is not None}


def _sound(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _sound_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _SMALLEST <= value <= _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if depth > _MAX_DEPTH:
        return _sound_text(str(value))
    if isinstance(value, Mapping):
        return _sound_items(cast("Mapping[Any, Any]", value), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_sound(item, depth + 1) for item in cast("list[Any]", value)]
    return _sound_text(str(value))


def _sound_text(text: str) -> str:
    # Half of a surrogate pair is no character, and no UTF-8: it would have the whole batch refused.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return without_keys(text)
