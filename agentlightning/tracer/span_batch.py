"""A batch of spans, followed by reports of finished attempts, that travels to a store together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

from .. import payload
from ..types import Attempt, AttemptStatus, Span
from .finished_span import FinishedSpan

logger = logging.getLogger("agentlightning.tracer")


class DropCounter:
    """Count of spans that were lost; every loss is logged."""

    def __init__(self) -> None:
        self.count = 0
        # Protects the count from the agents' threads and the export thread. Reentrant, because the garbage collector
        # may end a span anywhere, also in here.
        self._lock = threading.RLock()

    def drop(self, count: int, reason: str | None = None) -> None:
        """Count spans as lost and log the reason, if one is given."""
        with self._lock:
            self.count += count
        if reason:
            logger.error("Dropped %s: %s", "1 span" if count == 1 else f"{count} spans", reason)


@dataclass(frozen=True, eq=False)
class AttemptReport:
    """The final status of an attempt, and the future of the store's answer."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    metadata: dict[str, Any]
    answer: Future[Attempt] = field(default_factory=Future[Attempt])
    size: int = 500
    """Approximate size in bytes."""

    @property
    def fields(self) -> dict[str, Any]:
        """The arguments of the store's `update_attempt`."""
        metadata = {"metadata": self.metadata} if self.metadata else {}
        return {"rollout_id": self.rollout_id, "attempt_id": self.attempt_id, "status": self.status, **metadata}


def resolve(answer: Future[Attempt], result: Attempt | BaseException) -> None:
    """Set the result or the exception, unless the future is already done or cancelled."""
    if answer.done() or not answer.set_running_or_notify_cancel():
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)


QueueItem = FinishedSpan | AttemptReport


@dataclass(frozen=True)
class SpanBatch:
    """Spans in their order, then reports; the reports are of different attempts and may be sent concurrently."""

    spans: Sequence[Span]
    reports: Sequence[AttemptReport]
    count: int
    """Number of queue items in the batch, including spans that could not be converted."""

    @property
    def answers(self) -> list[Future[Attempt]]:
        """The futures of the reports, in their order."""
        return [report.answer for report in self.reports]

    def to_line(self) -> bytes:
        """Serialize the batch as a line of JSON."""
        return payload.dumps({"spans": list(self.spans), "reports": [each.fields for each in self.reports]}) + b"\n"

    @classmethod
    def from_items(cls, items: Sequence[QueueItem], dropped: DropCounter) -> SpanBatch:
        """Build one batch from queue items; drop spans that cannot be converted.

        Spans that were queued before a report are in the same batch or an earlier one.
        """
        reports = [item for item in items if isinstance(item, AttemptReport)]
        finished = [item for item in items if isinstance(item, FinishedSpan)]
        return cls(list(_converted(finished, dropped)), reports, len(items))

    @classmethod
    def from_line(cls, line: bytes, *, count: int = 0, answers: Sequence[Future[Attempt]] = ()) -> SpanBatch:
        """Parse a line of `to_line`. Raises ValueError if the line is not a batch."""
        fields: dict[str, Any] = orjson.loads(line)
        spans = [Span.model_validate(each) for each in fields["spans"]]
        rows: list[dict[str, Any]] = fields.get("reports", [])
        futures = answers or [Future[Attempt]() for _ in rows]
        reports = [_report(row, answer) for row, answer in zip(rows, futures, strict=True)]
        return cls(spans, reports, count)


def _report(row: dict[str, Any], answer: Future[Attempt]) -> AttemptReport:
    return AttemptReport(row["rollout_id"], row["attempt_id"], row["status"], row.get("metadata", {}), answer)


def _converted(finished: Iterable[FinishedSpan], dropped: DropCounter) -> Iterator[Span]:
    for each in finished:
        try:
            yield each.span
        except Exception as error:
            dropped.drop(1, f"it cannot be converted: {error!r}")
