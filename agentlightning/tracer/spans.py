"""Finished spans, reports of finished attempts, and the batches in which they are sent to a store.

The agent's thread only queues a span. When the span is first read, normally in the export thread, it is converted to
the store's format, values that JSON cannot represent are replaced (a single NaN would make the store reject the whole
batch), and API keys are redacted.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson

from .. import payload
from ..instrumentation.call_record import ERROR_MESSAGE, UNDECODED, decode_call
from ..redaction import contains_keys, redact
from ..types import Attempt, AttemptStatus, Span, TraceStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

T = TypeVar("T")

logger = logging.getLogger("agentlightning.tracer")

_BASE_SIZE = 400
"""Approximate size in bytes of a span's JSON without its text attributes."""
_MAX_INT, _MIN_INT = 2**63 - 1, -(2**63)
_MAX_DEPTH = payload.MAX_DEPTH - 4
"""Maximum nesting depth of an attribute's value. It is lower than the store's limit for a whole request, because
attributes are themselves nested a few levels deep in the request."""


class FinishedSpan:
    """A finished span, created by OpenTelemetry or this package, with the ids of its rollout and attempt."""

    __slots__ = ("_source", "_span", "attempt_id", "rollout_id", "size")

    def __init__(self, source: ReadableSpan | Span, rollout_id: str, attempt_id: str) -> None:
        self._source = source
        self._span: Span | None = None
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.size = _size(source)

    @property
    def span(self) -> Span:
        """The span in the format that stores accept. It is converted on first access."""
        if self._span is None:
            self._span = self._convert()
        return self._span

    def _convert(self) -> Span:
        source = self._source
        is_ours = isinstance(source, Span)
        span = source if is_ours else Span.from_opentelemetry(source, self.rollout_id, self.attempt_id)
        if UNDECODED in span.attributes:
            span.attributes = decode_call(span.attributes)
            message = span.attributes.get(ERROR_MESSAGE)
            if message and span.status.status_code == "UNSET":
                span.status = TraceStatus(status_code="ERROR", description=message)
        if not _is_clean(span):
            _clean_span(span)
        return span


class DropCounter:
    """Counts lost spans and logs why they were lost."""

    def __init__(self) -> None:
        self.count = 0
        # Protects `count` from concurrent access by the agents' threads and the export thread. Reentrant, because the
        # garbage collector may end a span at any point, even while the lock is held.
        self._lock = threading.RLock()

    def drop(self, count: int, reason: str | None = None) -> None:
        """Add `count` to the number of lost spans. Log the reason if one is given."""
        with self._lock:
            self.count += count
        if reason:
            logger.error("Dropped %s: %s", "1 span" if count == 1 else f"{count} spans", reason)


@dataclass(frozen=True, eq=False)
class AttemptReport:
    """The final status of an attempt, with a future for the store's response."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    metadata: dict[str, Any]
    answer: Future[Attempt] = field(default_factory=Future[Attempt])
    size: int = 500
    """Approximate size of the report's JSON in bytes."""

    @property
    def fields(self) -> dict[str, Any]:
        """The keyword arguments for the store's `update_attempt`."""
        metadata = {"metadata": self.metadata} if self.metadata else {}
        return {"rollout_id": self.rollout_id, "attempt_id": self.attempt_id, "status": self.status, **metadata}


def resolve(answer: Future[T], result: T | BaseException) -> None:
    """Set the result or the exception of a future, unless it is already done or cancelled."""
    if answer.done() or not answer.set_running_or_notify_cancel():
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)


QueueItem = FinishedSpan | AttemptReport


@dataclass(frozen=True)
class SpanBatch:
    """Spans and attempt reports that are sent together: first the spans, in order, and then the reports.

    The reports belong to different attempts, so they may be sent concurrently.
    """

    spans: Sequence[Span]
    reports: Sequence[AttemptReport]
    count: int
    """Number of queue items from which the batch was built, including spans that could not be converted."""

    def to_line(self) -> bytes:
        """Serialize the batch as a line of JSON."""
        return payload.dumps({"spans": list(self.spans), "reports": [each.fields for each in self.reports]}) + b"\n"

    @classmethod
    def from_items(cls, items: Sequence[QueueItem], dropped: DropCounter) -> SpanBatch:
        """Build a batch from queue items. Drop spans that cannot be converted.

        Every span that was queued before a report is in the same batch as the report or in an earlier batch.
        """
        reports = [item for item in items if isinstance(item, AttemptReport)]
        return cls(list(_spans(items, dropped)), reports, len(items))

    @classmethod
    def from_line(cls, line: bytes) -> SpanBatch:
        """Parse a line written by `to_line`. Raises ValueError for any other line."""
        fields: Any = orjson.loads(line)
        try:
            spans = [Span.model_validate(each) for each in fields["spans"]]
            reports = [
                AttemptReport(row["rollout_id"], row["attempt_id"], row["status"], row.get("metadata", {}))
                for row in fields.get("reports", [])
            ]
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"the line is not a batch of spans: {error!r}") from error
        return cls(spans, reports, len(spans) + len(reports))


def _spans(items: Sequence[QueueItem], dropped: DropCounter) -> Iterator[Span]:
    for item in items:
        if isinstance(item, FinishedSpan):
            try:
                yield item.span
            except Exception as error:
                dropped.drop(1, f"it cannot be converted: {error!r}")


# Conversion of a span


def _size(source: ReadableSpan | Span) -> int:
    # Iterating over OpenTelemetry's attribute class is 100 times slower than iterating over its inner dict.
    bounded: Any = getattr(source, "_attributes", None)
    attributes: Mapping[str, Any] = getattr(bounded, "_dict", None) or source.attributes or {}
    return _BASE_SIZE + sum([len(value) for value in attributes.values() if type(value) is str])


def _is_clean(span: Span) -> bool:
    """Return True if no value needs to be replaced or redacted. This fast test sometimes rejects a clean span."""
    attributes = [part.attributes or {} for part in (span, span.resource, *span.events, *span.links)]
    if not all(_is_plain(value) for each in attributes for value in each.values()):
        return False
    try:
        text = orjson.dumps([span.name, span.status.description, [event.name for event in span.events], attributes])
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return False
    return not contains_keys(text)


def _clean_span(span: Span) -> None:
    for part in (span, *span.events):
        part.name = _clean_text(part.name)
    for part in (span, span.resource, *span.events, *span.links):
        part.attributes = _clean_items(part.attributes or {})
    if span.status.description:
        span.status.description = _clean_text(span.status.description)


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
    # A lone surrogate cannot be encoded as UTF-8. The store would reject the whole batch, so replace it.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return redact(text)
