"""From ended spans to the store: a bounded queue in memory and one thread that sends batches.

Whoever ends a span only appends to the queue: no lock, no waiting, no network. The exporter's thread has an event loop
of its own; it wakes when the queue stops being empty, gathers for a moment, and sends in order. `flush` takes a
ticket, the number of spans put until then, and waits until so many have left, stored or dropped.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future, TimeoutError as FutureTimeoutError
from contextlib import suppress
from contextvars import Context

from opentelemetry import context

from ..instrumentation.listening import SUPPRESSED
from ..store.contract import LightningStore
from .ended import EndedSpan
from .sending import Sender, logger

BATCH_SPANS = 256
BATCH_BYTES = 1_000_000
GATHER_SECONDS = 0.05
"""How long a batch may take to fill, unless somebody waits for a flush."""

QUEUE_SPANS = 50_000
QUEUE_BYTES = 256_000_000
STOP_SECONDS = 5.0
"""How long stopping waits for the store to take what is queued."""
EXIT_SECONDS = 2.0
"""The same at the end of the process."""


class Pipeline:
    """The way from a tracer to its stores. The thread starts with the first span, and anew after a fork."""

    def __init__(self) -> None:
        self._running = False
        self._begin()
        _pipelines.add(self)

    def _begin(self) -> None:
        self._queue: deque[tuple[EndedSpan, LightningStore]] = deque()
        self._sender = Sender()
        self._bytes = 0
        self._full = False
        self._left = 0
        self._leaving = 0
        self._tickets: list[tuple[int, Future[None]]] = []
        self._exporter = _Exporter(self)
        # Protects the counts that a ticket is made of from the exporter, and the thread's start from a second one.
        # Reentrant, because a collected object may end a span anywhere, also in here.
        self._lock = threading.RLock()

    @property
    def dropped(self) -> int:
        """Spans that could not be stored: the queue was full, or the store refused them for good."""
        return self._sender.dropped

    @property
    def is_empty(self) -> bool:
        """Nothing waits to be taken."""
        return not self._queue

    @property
    def hurried(self) -> bool:
        """Somebody waits, or a batch is full: no reason to gather any longer."""
        return bool(self._tickets) or len(self._queue) >= BATCH_SPANS or self._bytes >= BATCH_BYTES

    def start(self) -> None:
        """Take spans from now on."""
        self._running, self._full = True, False

    def put(self, ended: EndedSpan, store: LightningStore) -> None:
        """Queue a span for `store`; when the queue is full, or nobody empties it, it is dropped and counted."""
        if not self._running or len(self._queue) >= QUEUE_SPANS or self._bytes >= QUEUE_BYTES:
            self._turn_away()
            return
        self._bytes += ended.size  # threads may overwrite each other's sum; the bound need not be exact
        self._queue.append((ended, store))
        if self._exporter.asleep or len(self._queue) == BATCH_SPANS:
            self._wake()

    async def flush(self) -> None:
        """Wait until every span put so far has been stored, or dropped because it never can be."""
        if ticket := self._ticket():
            await asyncio.wrap_future(ticket)

    def flush_blocking(self, timeout: float) -> bool:
        """`flush` for threads without an event loop; False when it takes longer than `timeout` seconds."""
        try:
            if ticket := self._ticket():
                ticket.result(timeout)
        except FutureTimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Send what is queued, for at most `STOP_SECONDS`, and end the thread."""
        self._running = False
        if not self.flush_blocking(STOP_SECONDS):
            waited = len(self._queue) + self._leaving
            self._sender.drop(waited, f"the store did not take them within {STOP_SECONDS:g} s of the tracer's end")
        self._exporter.stop()
        dropped = self._sender.dropped
        if self._full:
            logger.error("%d spans were dropped in all", dropped)
        self._resolve_all()
        self._begin()
        self._sender.dropped = dropped

    def take(self) -> list[tuple[EndedSpan, LightningStore]]:
        """For the exporter: the next batch, oldest first."""
        batch: list[tuple[EndedSpan, LightningStore]] = []
        size = 0
        with self._lock:
            while self._queue and len(batch) < BATCH_SPANS and size < BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += batch[-1][0].size
            self._leaving = len(batch)
            self._bytes = self._bytes - size if self._queue else 0
        return batch

    def done(self) -> None:
        """For the exporter: the batch taken last is stored or dropped."""
        with self._lock:
            self._left += self._leaving
            self._leaving = 0
            reached = [ticket for ticket in self._tickets if ticket[0] <= self._left]
            self._tickets = [ticket for ticket in self._tickets if ticket[0] > self._left]
        for _, future in reached:
            _resolve(future)

    async def send(self, batch: list[tuple[EndedSpan, LightningStore]]) -> None:
        """For the exporter: return when the batch is stored or dropped."""
        await self._sender.send(batch)

    def _ticket(self) -> Future[None] | None:
        with self._lock:
            ahead = self._leaving + len(self._queue)
            if not ahead:
                return None
            future: Future[None] = Future()
            self._tickets.append((self._left + ahead, future))
        self._wake()
        return future

    def _resolve_all(self) -> None:
        for _, future in self._tickets:
            _resolve(future)

    def _wake(self) -> None:
        with self._lock:
            self._exporter.wake()

    def _turn_away(self) -> None:
        if self._full:
            self._sender.dropped += 1  # said once, and again with the sum when the tracer ends
            return
        self._full = True
        why = "the store is too slow or away, and the queue is full" if self._running else "their tracer has ended"
        self._sender.drop(1, why)


class _Exporter:
    """The thread that empties a pipeline's queue."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._thread: threading.Thread | None = None
        self.asleep = True
        """The queue was empty: whoever puts something into it must call `wake`."""

    def wake(self) -> None:
        """Look at the queue, and whether somebody waits for it."""
        if self._thread is None:
            self._start()
        with suppress(RuntimeError):  # the loop has been closed: it is the end
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        """End the thread, whatever it is doing, and wait for it."""
        if self._thread:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        # In empty contexts: the rollout whose span came first is not what the thread works for.
        self._task = self._loop.create_task(self._run(), context=Context())
        self._thread = threading.Thread(target=self._serve, name="agentlightning-exporter", daemon=True)
        Context().run(self._thread.start)

    def _serve(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        context.attach(context.set_value(SUPPRESSED, True))  # the client's own calls are nobody's trace
        while True:
            await self._sleep_until_woken()
            await self._gather()
            while not self._pipeline.is_empty:
                await self._pipeline.send(self._pipeline.take())
                self._pipeline.done()

    async def _sleep_until_woken(self) -> None:
        self.asleep = True
        # Whoever put something between the last look and this line saw us awake.
        if self._pipeline.is_empty:
            await self._woken.wait()
        self.asleep = False
        self._woken.clear()

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                while not self._pipeline.hurried:
                    await self._woken.wait()
                    self._woken.clear()


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()
_before_fork: list[_Exporter] = []
"""Exporters whose threads stayed in the parent; kept, since closing their loops would reach into the parent's."""


def flush_everything(timeout: float) -> bool:
    """Flush every pipeline of the process; False when one of them took longer than `timeout` seconds."""
    flushed = [pipeline.flush_blocking(timeout) for pipeline in list(_pipelines)]
    return all(flushed)


def _begin_anew_in_child() -> None:
    # What is queued is the parent's to send, and its thread is not here.
    for pipeline in list(_pipelines):
        _before_fork.append(pipeline._exporter)  # pyright: ignore[reportPrivateUsage]
        pipeline._begin()  # pyright: ignore[reportPrivateUsage]


def _resolve(future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
atexit.register(flush_everything, EXIT_SECONDS)
