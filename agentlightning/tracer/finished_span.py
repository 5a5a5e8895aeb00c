"""A finished span, before it is converted to the store's form.

The agent's thread only keeps what OpenTelemetry hands over. Conversion, replacement of values that JSON cannot hold
(one NaN would make the store refuse a whole batch) and redaction of API keys happen when the span is first read,
normally in the export thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import orjson

from ..instrumentation.call_record import ERROR_MESSAGE, UNDECODED, decode_call
from ..payload import MAX_DEPTH
from ..redaction import may_contain_keys, redact
from ..types import Span, TraceStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_BASE_SIZE = 400
"""Approximate size in bytes of a span's JSON without the texts of its attributes."""
_MAX_INT, _MIN_INT = 2**63 - 1, -(2**63)
_MAX_DEPTH = MAX_DEPTH - 4
"""Attributes are a few levels deep in the JSON that the store checks."""


class FinishedSpan:
    """A finished span of OpenTelemetry or of this package, with the ids of its attempt."""

    __slots__ = ("_source", "_span", "attempt_id", "rollout_id", "size")

    def __init__(self, source: ReadableSpan | Span, rollout_id: str, attempt_id: str) -> None:
        self._source = source
        self._span: Span | None = None
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.size = _size(source)

    @property
    def span(self) -> Span:
        """The span as stores accept it; converted on first access."""
        if self._span is None:
            self._span = self._convert()
        return self._span

    def _convert(self) -> Span:
        source = self._source
        is_ours = isinstance(source, Span)
        span = source if is_ours else Span.from_opentelemetry(source, self.rollout_id, self.attempt_id)
        if UNDECODED in span.attributes:
            _decode(span)
        span.name = _clean_text(span.name)
        span.attributes = _clean_attributes(span.attributes)
        span.resource.attributes = _clean_attributes(span.resource.attributes)
        if span.status.description:
            span.status.description = _clean_text(span.status.description)
        for event in span.events:
            event.name, event.attributes = _clean_text(event.name), _clean_attributes(event.attributes)
        for link in span.links:
            link.attributes = _clean_attributes(link.attributes or {})
        return span


def _decode(span: Span) -> None:
    span.attributes = decode_call(span.attributes)
    message = span.attributes.get(ERROR_MESSAGE)
    if message and span.status.status_code == "UNSET":
        span.status = TraceStatus(status_code="ERROR", description=message)


def _size(source: ReadableSpan | Span) -> int:
    # Iterating over OpenTelemetry's attribute class is a hundred times slower than over the dict inside it.
    bounded: Any = getattr(source, "_attributes", None)
    attributes: Mapping[str, Any] = getattr(bounded, "_dict", None) or source.attributes or {}
    return _BASE_SIZE + sum([len(value) for value in attributes.values() if type(value) is str])


def _clean_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    return attributes if _are_clean(attributes) else _clean_items(attributes)


def _are_clean(attributes: dict[str, Any]) -> bool:
    """Return True if nothing needs to be replaced: a fast test that may return False without need."""
    if not all(_is_plain(value) for value in attributes.values()):
        return False
    try:
        text = orjson.dumps(attributes)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return False
    return not may_contain_keys(text)


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(isinstance(item, (str, int)) for item in cast("list[Any]", value))
    return isinstance(value, (str, int))


def _clean_items(attributes: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    return {_clean_text(str(key)): _clean(value, depth + 1) for key, value in attributes.items() if value is not None}


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _MIN_INT <= value <= _MAX_INT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if depth <= _MAX_DEPTH and isinstance(value, Mapping):
        return _clean_items(cast("Mapping[Any, Any]", value), depth)
    if depth <= _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item, depth + 1) for item in cast("list[Any]", value)]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    # A lone surrogate is not a character and has no UTF-8: the store would refuse the whole batch.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return redact(text)
