"""What travels to a store together: spans, and behind them reports of how attempts ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

from .. import payload
from ..types import Attempt, AttemptStatus, Span
from .finished_span import EndedSpan


@dataclass(frozen=True, eq=False)
class Report:
    """How an attempt ended, and who waits for the store's word on it."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    metadata: dict[str, Any]
    answer: Future[Attempt] = field(default_factory=Future[Attempt])
    size: int = 500
    """Bytes it takes, roughly."""

    @property
    def fields(self) -> dict[str, Any]:
        """What the store is told."""
        metadata = {"metadata": self.metadata} if self.metadata else {}
        return {"rollout_id": self.rollout_id, "attempt_id": self.attempt_id, "status": self.status, **metadata}


def settle(answer: Future[Attempt], attempt: Attempt | None, error: BaseException | None = None) -> None:
    """Tell who waits for the answer, if somebody still does."""
    if answer.done() or not answer.set_running_or_notify_cancel():
        return
    if error is None and attempt is not None:
        answer.set_result(attempt)
    else:
        answer.set_exception(error)


Item = EndedSpan | Report


@dataclass(frozen=True)
class Parcel:
    """Spans in their order, then reports, which are of different attempts and may arrive side by side."""

    spans: Sequence[Span]
    reports: Sequence[Report]
    count: int
    """Items it was made of; spans that could not be converted are among them."""

    @property
    def answers(self) -> list[Future[Attempt]]:
        """What is waited for, by report."""
        return [report.answer for report in self.reports]

    def line(self) -> bytes:
        """The parcel as a line of JSON."""
        return payload.dumps({"spans": list(self.spans), "reports": [each.fields for each in self.reports]}) + b"\n"


def packed(items: Iterable[Item], convert: Callable[[EndedSpan], Span | None]) -> Parcel:
    """The items as one parcel: whatever was put before a report is in it, before the report."""
    spans: list[Span] = []
    reports: list[Report] = []
    count = 0
    for item in items:
        count += 1
        if isinstance(item, Report):
            reports.append(item)
        elif (span := convert(item)) is not None:
            spans.append(span)
    return Parcel(spans, reports, count)


def unpacked(line: bytes, *, count: int = 0, answers: Sequence[Future[Attempt]] | None = None) -> Parcel:
    """The parcel that `line` was made of. Raises ValueError for what is no parcel."""
    read: dict[str, Any] = orjson.loads(line)
    spans = [Span.model_validate(each) for each in read["spans"]]
    said: list[dict[str, Any]] = read.get("reports", [])
    told = answers or [Future[Attempt]() for _ in said]
    reports = [_report(each, answer) for each, answer in zip(said, told, strict=True)]
    return Parcel(spans, reports, count)


def _report(said: dict[str, Any], answer: Future[Attempt]) -> Report:
    return Report(said["rollout_id"], said["attempt_id"], said["status"], said.get("metadata", {}), answer)
