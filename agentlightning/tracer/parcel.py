"""What travels to a store together: spans, and behind them perhaps the report of how their attempt ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

from .. import payload
from ..types import Attempt, AttemptStatus, Span
from .ended import EndedSpan


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
    """Spans in their order, then at most one report."""

    spans: Sequence[Span]
    report: Report | None
    count: int
    """Items it was made of; spans that could not be converted are among them."""

    def line(self) -> bytes:
        """The parcel as a line of JSON."""
        report = self.report.fields if self.report else None
        return payload.dumps({"spans": list(self.spans), "report": report}) + b"\n"


def packed(items: Iterable[Item], convert: Callable[[EndedSpan], Span | None]) -> Iterator[Parcel]:
    """The items as parcels: each report ends one."""
    spans: list[EndedSpan] = []
    for item in items:
        if isinstance(item, Report):
            yield Parcel(_converted(spans, convert), item, len(spans) + 1)
            spans = []
        else:
            spans.append(item)
    if spans:
        yield Parcel(_converted(spans, convert), None, len(spans))


def unpacked(line: bytes, *, count: int = 0, answer: Future[Attempt] | None = None) -> Parcel:
    """The parcel that `line` was made of. Raises ValueError for what is no parcel."""
    read: dict[str, Any] = orjson.loads(line)
    spans = [Span.model_validate(each) for each in read["spans"]]
    said: dict[str, Any] | None = read["report"]
    if said is None:
        return Parcel(spans, None, count)
    metadata: dict[str, Any] = said.get("metadata", {})
    answer = answer or Future[Attempt]()
    return Parcel(spans, Report(said["rollout_id"], said["attempt_id"], said["status"], metadata, answer), count)


def _converted(ended: list[EndedSpan], convert: Callable[[EndedSpan], Span | None]) -> list[Span]:
    return [span for item in ended if (span := convert(item)) is not None]
