"""Spans sent on to other places over OTLP/HTTP: Phoenix, Langfuse, Jaeger, MLflow, a collector.

The database is the queue: each target has its place among the stored spans, and goes on there when it was away or the
store was stopped. All happens in a thread of its own that gives way after every span, so nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from ...errors import InvalidInput, StoreUnavailable
from ..sql import SqlStore
from .send import ANSWER_SECONDS, Away, Sender, TakesNone, spans_in_words
from .target import Target

logger = logging.getLogger(__name__)

MOST_SPANS = 256
MOST_BYTES = 1024 * 1024
"""Of a batch's JSON text; a span that is larger goes alone."""
GATHER_SECONDS = 1.0
"""How long what follows a span is waited for: each batch costs a commit, which others may have to wait for."""
LOOK_SECONDS = 5.0
"""Between looks for spans that nobody announced."""
SETTLE_SECONDS = 0.05
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between tries while a target is away; doubled each time, with jitter."""
LOOKS_AHEAD = 8
"""How many of those that wait a target is offered at each try that refuses the oldest, until it has taken one."""
RESTS = 2.0
"""Of the thread's work on a batch, how many times as long it does nothing."""
LAST_SECONDS = 3.0
"""How long the end of the store waits for spans that are on their way."""


@dataclass(frozen=True)
class Counts:
    """What became of the spans for one target since the store was started."""

    target: str
    sent: int
    rejected: int
    """Spans that the target will never take."""
    failures: int
    """Tries that failed, most often because it was away."""
    waiting: int


class OtlpExporter:
    """Keeps targets told of a store's spans: one that is new to the store of those to come, with `past` of all."""

    def __init__(self, store: SqlStore, targets: Sequence[Target], *, past: bool = False) -> None:
        names = [target.name for target in targets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidInput(f"two OTLP targets are named {twice.pop()!r}: write NAME=URL", field="export_otlp")
        self._store = store
        self._exports = [_Export(store, target, past=past) for target in targets]
        self._loop: asyncio.AbstractEventLoop
        self._ending: asyncio.Event
        self._running = threading.Event()
        self._thread: threading.Thread

    async def counts(self) -> list[Counts]:
        """For each target."""
        newest = (await self._store.span_horizon()).ordinal
        return [export.counts(newest) for export in self._exports]

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="agl-export", daemon=True)
        self._thread.start()
        self._running.wait()

    def stop(self) -> None:
        """Send what waits while that goes well, for some seconds, and end; the rest is sent after the next start."""
        with suppress(RuntimeError):  # its loop has closed
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        self._store.signals.tap(self._heard)
        try:
            with suppress(StoreUnavailable):
                for export in self._exports:
                    await export.begin()
            self._running.set()
            await self._export_all()
        finally:
            self._running.set()  # who waits for the start learns of a failure by the log
            self._store.signals.untap(self._heard)

    async def _export_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
            exporting = {asyncio.create_task(export.run(session, self._ending)) for export in self._exports}
            await self._ending.wait()
            _, unfinished = await asyncio.wait(exporting, timeout=LAST_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*exporting, return_exceptions=True)
        await self._say_what_waits()

    async def _say_what_waits(self) -> None:
        with suppress(StoreUnavailable):
            for each in await self.counts():
                if each.waiting > 0:
                    then = "are sent after the next start" if self._store.capabilities["durable"] else "are lost"
                    logger.warning("%s was not told of %s; they %s", each.target, spans_in_words(each.waiting), then)

    def _heard(self, topic: str) -> None:
        """Called by the thread that commits."""
        if topic.startswith("spans:"):
            for export in self._exports:
                if not export.told:
                    export.told = True
                    with suppress(RuntimeError):  # its loop has closed
                        self._loop.call_soon_threadsafe(export.news.set)


class _Export:
    """One target, and its place among the spans."""

    def __init__(self, store: SqlStore, target: Target, *, past: bool) -> None:
        self.told = False
        """That there is something new since it looked last."""
        self.news = asyncio.Event()
        self._store = store
        self._target = target
        self._past = past
        self._place = 0
        self._ahead: set[bytes] = set()
        """Spans behind its place that are done with."""
        self._sent = self._rejected = self._failures = 0
        self._trouble: str | None = None
        self._pause = FIRST_PAUSE

    def counts(self, newest: int) -> Counts:
        waiting = max(0, newest - self._place)
        return Counts(self._target.name, self._sent, self._rejected, self._failures, waiting)

    async def run(self, session: aiohttp.ClientSession, ending: asyncio.Event) -> None:
        """Send, wait for news, and begin again after what went wrong; until the end."""
        sender = Sender(session, self._target)
        is_last = False
        while not is_last:
            is_last = ending.is_set()
            try:
                await self._catch_up(sender, ending)
            except (Away, StoreUnavailable) as error:
                await self._fail(error, ending)
            except Exception as error:
                logger.exception("Sending spans to %s failed; trying again", self._target.name)
                await self._fail(error, ending)
            else:
                self._succeed()
                await self._something_or(ending)

    async def begin(self) -> None:
        """Take a place among the spans, where there is none yet."""
        await self._store.begin_export(self._target.name, past=self._past)

    async def _catch_up(self, sender: Sender, ending: asyncio.Event) -> None:
        self.news.clear()
        self.told = False  # before the look, so that nothing is missed
        await self.begin()
        self._place = await self._store.exported_up_to(self._target.name)
        horizon = await self._store.span_horizon()
        while not await self._store.is_settled(horizon):  # noqa: ASYNC110 - no event tells of another server's commit
            await asyncio.sleep(SETTLE_SECONDS)
        while self._place < horizon.ordinal:
            begun = time.thread_time()
            batch = await self._store.spans_between(self._place, horizon.ordinal, MOST_SPANS, MOST_BYTES)
            if not batch:  # they were deleted
                break
            payloads = [payload for _, payload in batch]
            try:
                await self._send(sender, [payload for payload in payloads if payload not in self._ahead])
            except TakesNone as refusal:
                await self._look_ahead(sender, horizon.ordinal, refusal)
                continue
            self._ahead.difference_update(payloads)
            self._place = await self._store.note_exported(self._target.name, *batch[-1])
            # Rests for longer than it has worked: a target that is back and has much to hear slows nobody either.
            await _first_of(ending.wait(), seconds=RESTS * (time.thread_time() - begun))

    async def _look_ahead(self, sender: Sender, newest: int, refusal: TakesNone) -> None:
        """Find one that it takes: then its refusal was about the spans. Raises `TakesNone`."""
        waiting = range(self._place + 1, newest)
        for ordinal in [*sorted(random.sample(waiting, min(len(waiting), LOOKS_AHEAD - 1))), newest]:
            payloads = [payload for _, payload in await self._store.spans_between(ordinal - 1, newest, 1, MOST_BYTES)]
            with suppress(TakesNone):
                await self._send(sender, payloads)
                self._ahead.update(payloads)
            if sender.has_taken:
                return
        raise refusal

    async def _send(self, sender: Sender, payloads: Sequence[bytes]) -> None:
        try:
            self._sent += await sender.send(payloads)
        finally:
            self._rejected = sender.rejected

    async def _something_or(self, ending: asyncio.Event) -> None:
        await _first_of(self.news.wait(), ending.wait(), seconds=LOOK_SECONDS)
        await _first_of(ending.wait(), seconds=GATHER_SECONDS)

    async def _fail(self, error: Exception, ending: asyncio.Event) -> None:
        self._failures += 1
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            logger.warning("Spans for %s wait in the store: %s", self._target.name, trouble)
        self._trouble = trouble
        pause = max(self._pause * random.uniform(0.5, 1.0), error.retry_after if isinstance(error, Away) else 0.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        await _first_of(ending.wait(), seconds=pause)

    def _succeed(self) -> None:
        if self._trouble is not None:
            logger.warning("%s takes spans again, and has all of them", self._target.name)
        self._trouble, self._pause = None, FIRST_PAUSE


async def _first_of(*waits: Any, seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
