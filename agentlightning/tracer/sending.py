"""How a batch reaches the store: retried while the store is away, halved while one bad span spoils it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from itertools import groupby

from ..errors import Conflict, NotFound
from ..store.contract import LightningStore
from ..types import Span
from .ended import EndedSpan

logger = logging.getLogger("agentlightning.tracer")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts while the store is away; doubled each time, with jitter."""


class Sender:
    """Sends what it is given, in order, and counts what can never be stored."""

    def __init__(self) -> None:
        self.dropped = 0

    async def send(self, batch: Sequence[tuple[EndedSpan, LightningStore]]) -> None:
        """Return when every span of the batch is stored or dropped; never raise over a span."""
        for store, ended in groupby(batch, key=lambda item: item[1]):
            spans = list(self._converted(item for item, _ in ended))
            if spans:
                await self._deliver(store, spans)

    def drop(self, count: int, why: str) -> None:
        """Count spans as lost and say so."""
        self.dropped += count
        logger.error("Dropped %s: %s", _spans(count), why)

    def _converted(self, ended: Iterator[EndedSpan]) -> Iterator[Span]:
        for item in ended:
            try:
                yield item.span
            except Exception as error:
                self.drop(1, f"it cannot be written as one of ours: {error!r}")

    async def _deliver(self, store: LightningStore, spans: list[Span]) -> None:
        try:
            await _store_when_there(store, spans)
        except (NotFound, Conflict) as error:
            await self._refused(store, _by_attempt(spans), error)
        except Exception as error:
            await self._refused(store, _halves(spans), error)

    async def _refused(self, store: LightningStore, parts: list[list[Span]], error: Exception) -> None:
        if len(parts) > 1:
            for part in parts:
                await self._deliver(store, part)
            return
        [spans] = parts
        whose = f"rollout {spans[0].rollout_id}, attempt {spans[0].attempt_id}"
        self.drop(len(spans), f"the store refused {spans[0].name!r} of {whose}: {type(error).__name__}: {error}")


async def _store_when_there(store: LightningStore, spans: list[Span]) -> None:
    pause = FIRST_PAUSE
    while True:
        try:
            await store.add_many_spans(spans)
        except (ConnectionError, TimeoutError) as error:
            logger.debug("The store is away (%s); %s wait", error, _spans(len(spans)))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)
        else:
            return


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
