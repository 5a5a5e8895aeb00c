"""How spans and reports reach the store: again while it is away, and by halves while one bad span spoils the rest."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import TypeVar

from ..errors import Conflict, NotFound
from ..semconv import LATE
from ..store.contract import LightningStore
from ..types import AttemptRef, Span
from .finished_span import EndedSpan
from .span_batch import Parcel, Report, settle

T = TypeVar("T")

logger = logging.getLogger("agentlightning.tracer")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts while the store is away; doubled each time, with jitter."""


class Sender:
    """Sends what it is given, in order, and counts what can never be stored."""

    def __init__(self, on_late: Callable[[AttemptRef], None] = lambda _: None) -> None:
        self._on_late = on_late
        """Called with each attempt whose spans the store calls late: it has given the attempt up."""
        self.dropped = 0
        self.waits = False
        """The store is away, and asked again and again."""

    async def send(self, batch: Sequence[tuple[EndedSpan, LightningStore]]) -> None:
        """Return when every span of the batch is stored or dropped; never raise over a span."""
        for store, ended in groupby(batch, key=lambda item: item[1]):
            spans = [span for item, _ in ended if (span := self.convert(item)) is not None]
            if spans:
                await self._deliver(store, spans)

    async def deliver(self, store: LightningStore, parcel: Parcel) -> None:
        """Return when the parcel's spans are stored or dropped and its reports are answered; never raise over them."""
        if parcel.spans:
            await self._deliver(store, list(parcel.spans))
        if parcel.reports:
            # Side by side, so that the store commits them together.
            await asyncio.gather(*(self._report(store, report) for report in parcel.reports))

    def convert(self, ended: EndedSpan) -> Span | None:
        """The span in our form; one that has none is dropped."""
        try:
            return ended.span
        except Exception as error:
            self.drop(1, f"it cannot be written as one of ours: {error!r}")
            return None

    def drop(self, count: int, why: str) -> None:
        """Count spans as lost and say so."""
        self.dropped += count
        logger.error("Dropped %s: %s", _spans(count), why)

    async def _deliver(self, store: LightningStore, spans: list[Span]) -> None:
        try:
            stored = await self._when_there(lambda: store.add_many_spans(spans))
        except (NotFound, Conflict) as error:
            await self._refused(store, _by_attempt(spans), error)
        except Exception as error:
            await self._refused(store, _halves(spans), error)
        else:
            for late in _by_attempt([span for span in stored if LATE in span.attributes]):
                self._on_late(AttemptRef(rollout_id=late[0].rollout_id, attempt_id=late[0].attempt_id))

    async def _refused(self, store: LightningStore, parts: list[list[Span]], error: Exception) -> None:
        if len(parts) > 1:
            for part in parts:
                await self._deliver(store, part)
            return
        [spans] = parts
        whose = f"rollout {spans[0].rollout_id}, attempt {spans[0].attempt_id}"
        self.drop(len(spans), f"the store refused {spans[0].name!r} of {whose}: {type(error).__name__}: {error}")

    async def _report(self, store: LightningStore, report: Report) -> None:
        try:
            settle(report.answer, await self._when_there(lambda: store.update_attempt(**report.fields)))
        except Exception as error:
            settle(report.answer, None, error)

    async def _when_there(self, operation: Callable[[], Awaitable[T]]) -> T:
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    return await operation()
                except (ConnectionError, TimeoutError) as error:
                    logger.debug("The store is away (%s); asking again", error)
                self.waits = True
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.waits = False


def _by_attempt(spans: list[Span]) -> list[list[Span]]:
    parts: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        parts.setdefault((span.rollout_id, span.attempt_id), []).append(span)
    return list(parts.values())


def _halves(spans: list[Span]) -> list[list[Span]]:
    middle = len(spans) // 2
    return [part for part in (spans[:middle], spans[middle:]) if part]


def _spans(count: int) -> str:
    return "1 span" if count == 1 else f"{count} spans"
