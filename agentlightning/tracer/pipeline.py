"""Pipeline for finished spans: a bounded in-memory queue and a thread that exports the queued items to the store.

When a span ends, the agent's thread only appends it to the queue, without network or disk access. It waits only if the
queue is full. The export thread has its own event loop. It wakes up when the queue is no longer empty, waits briefly
for more items, and passes them in batches to the exporters (one per store). An exporter sends its batches or buffers
them on disk. The queue fills up only if neither is possible. To flush, a caller waits for a flush token: a future that
is resolved once every item queued before the flush has been stored or dropped.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import Context
from itertools import groupby

from opentelemetry import context

from ..errors import StoreUnavailable
from ..instrumentation.context import SUPPRESSED
from ..store.contract import LightningStore
from ..types import Attempt, AttemptRef
from .disk_buffer import buffer_folder, leftover_files
from .exporter import STOPPED, SpanExporter, logger
from .spans import AttemptReport, DropCounter, FinishedSpan, QueueItem, SpanBatch, resolve

BATCH_SPANS = 256
BATCH_BYTES = 1_000_000
BATCH_SECONDS = 0.05
"""Maximum time in seconds that the export thread waits for a batch to fill. It does not wait if a flush is waiting."""

QUEUE_SPANS = 50_000
QUEUE_BYTES = 256_000_000
FULL_QUEUE_TIMEOUT = 5.0
"""Maximum time in seconds to wait for space in a full queue when a span ends. After that, the span is dropped."""
STOP_TIMEOUT = 5.0
"""Maximum time in seconds that `stop` waits for the queued items to be stored or saved on disk."""
POLL_INTERVAL_IDLE = 0.02
"""Interval in seconds at which `stop` checks if every item has been stored or saved on disk."""
EXIT_TIMEOUT = 2.0
"""Maximum time in seconds to wait for each pipeline to send its queued items when the process exits."""


class Pipeline:
    """A tracer's queue and export thread. The thread starts when it is first needed; a forked child starts its own."""

    def __init__(self) -> None:
        self._running = False
        self._subscribers: tuple[Callable[[AttemptRef], None], ...] = ()
        self.drops = DropCounter()
        """Counts the spans that were lost, for example because the queue was full or the store rejected them."""
        self._reset()
        _pipelines.add(self)

    def _reset(self) -> None:
        self._queue: deque[tuple[QueueItem, LightningStore]] = deque()
        self._bytes = 0
        self._full = False
        self._exported = 0
        self._in_flight = 0
        self._flush_tokens: list[tuple[int, Future[None]]] = []
        self._thread = ExportThread(self)
        # Protects `_exported`, `_in_flight` and `_flush_tokens` from concurrent access by the export and other threads.
        # Reentrant, because the garbage collector may end a span at any point, even while the lock is held.
        self._lock = threading.RLock()
        self._space_available = threading.Condition()

    @property
    def is_empty(self) -> bool:
        """True if the queue is empty."""
        return not self._queue

    @property
    def is_batch_ready(self) -> bool:
        """True if a batch is full or a flush is waiting."""
        return bool(self._flush_tokens) or len(self._queue) >= BATCH_SPANS or self._bytes >= BATCH_BYTES

    def start(self, store: LightningStore | None = None) -> None:
        """Start accepting items. Start sending the items that earlier processes left in disk buffers for `store`."""
        self._running, self._full = True, False
        if store and (folder := buffer_folder(store)) and leftover_files(folder):
            self._thread.send_leftovers(store)

    def put(self, finished: FinishedSpan, store: LightningStore) -> None:
        """Queue a span for `store`. Drop the span if the pipeline is stopped or the queue remains full."""
        if self._running and (self._has_space() or self._wait_for_space()):
            self._append(finished, store)
        else:
            self._reject()

    async def report(self, store: LightningStore, report: AttemptReport) -> Attempt:
        """Send the final status of an attempt after all spans queued so far. Return the updated attempt.

        Raises the store's exceptions, and StoreUnavailable if the pipeline is stopped before the store responds.
        """
        self._append(report, store)
        self._take_flush_token()  # so that the thread does not wait for the batch to fill
        return await asyncio.wrap_future(report.answer)

    async def flush(self) -> None:
        """Wait until every span queued so far has been stored or dropped."""
        if token := self._take_flush_token():
            await asyncio.wrap_future(token)

    def flush_blocking(self, timeout: float) -> bool:
        """Flush, and block the calling thread meanwhile. Return False if this takes longer than `timeout` seconds."""
        token = self._take_flush_token()
        return token is None or not wait({token}, timeout).not_done

    def stop(self) -> None:
        """Wait until queued items are sent or saved on disk, at most `STOP_TIMEOUT` seconds. Then end the thread."""
        self._running = False
        self._wait_until_safe()
        saved = self._thread.stop()
        lost = len(self._queue) + self._in_flight - saved
        if lost > 0:
            self.drops.drop(lost, f"the store did not accept them within {STOP_TIMEOUT:g} s after the tracer stopped")
        if self._full:
            logger.error("%d spans were dropped in total", self.drops.count)
        for _, token in self._flush_tokens:
            resolve(token, None)
        for item, _ in self._queue:
            if isinstance(item, AttemptReport):
                resolve(item.answer, StoreUnavailable(STOPPED))
        self._reset()

    @contextmanager
    def subscribe_abandoned(self, callback: Callable[[AttemptRef], None]) -> Generator[None]:
        """Subscribe to attempts that had already ended when the store received spans from them.

        Until the block ends, the export thread calls `callback` with each such attempt.
        """
        self._subscribers = (*self._subscribers, callback)
        try:
            yield
        finally:
            self._subscribers = tuple(each for each in self._subscribers if each != callback)

    # For the export thread

    def notify_late(self, attempt: AttemptRef) -> None:
        """Notify the subscribers that the attempt had already ended when the store received spans from it."""
        for callback in self._subscribers:
            callback(attempt)

    def take_batch(self) -> list[tuple[QueueItem, LightningStore]]:
        """Remove up to one batch of the oldest items from the queue. Return each item with its store, oldest first."""
        batch: list[tuple[QueueItem, LightningStore]] = []
        size = 0
        with self._lock:
            while self._queue and len(batch) < BATCH_SPANS and size < BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += batch[-1][0].size
            self._in_flight += len(batch)
            self._bytes = self._bytes - size if self._queue else 0
        with self._space_available:
            self._space_available.notify_all()
        return batch

    def mark_exported(self, count: int) -> None:
        """Record that `count` more items were stored or dropped. Resolve the flush tokens that waited for them."""
        with self._lock:
            self._exported += count
            self._in_flight -= count
            reached = [token for position, token in self._flush_tokens if position <= self._exported]
            self._flush_tokens = [each for each in self._flush_tokens if each[0] > self._exported]
        for token in reached:
            resolve(token, None)

    # Internals

    def _append(self, item: QueueItem, store: LightningStore) -> None:
        self._bytes += item.size  # `+=` is not atomic across threads, but the limit need not be exact
        self._queue.append((item, store))
        if self._thread.is_asleep or len(self._queue) == BATCH_SPANS:
            self._thread.wake()

    def _has_space(self) -> bool:
        return len(self._queue) < QUEUE_SPANS and self._bytes < QUEUE_BYTES

    def _wait_for_space(self) -> bool:
        # If the garbage collector ends a span in the export thread, that thread cannot wait for itself.
        if self._thread.is_current:
            return True
        with self._space_available:
            return self._space_available.wait_for(self._has_space, FULL_QUEUE_TIMEOUT)

    def _reject(self) -> None:
        if self._full:
            self.drops.drop(1)  # the reason has already been logged; the total is logged when the tracer stops
            return
        self._full = True
        full = "the queue is full, and neither the store nor the disk accepts spans"
        self.drops.drop(1, full if self._running else "their tracer has been stopped")

    def _take_flush_token(self) -> Future[None] | None:
        with self._lock:
            pending = self._in_flight + len(self._queue)
            if not pending:
                return None
            token: Future[None] = Future()
            self._flush_tokens.append((self._exported + pending, token))
        self._thread.wake()
        return token

    def _wait_until_safe(self) -> None:
        """Wait until every item has been stored, dropped or saved on disk, at most `STOP_TIMEOUT` seconds."""
        token, deadline = self._take_flush_token(), time.monotonic() + STOP_TIMEOUT
        while token and not token.done() and time.monotonic() < deadline and not self._thread.is_idle:
            wait({token}, POLL_INTERVAL_IDLE)

    def reset_in_child(self) -> None:
        """Reset the pipeline in a forked child. Only the parent has the export thread and sends the queued items."""
        self._thread.close_in_child()
        _threads_of_parent.append(self._thread)
        self.drops = DropCounter()
        self._reset()


class ExportThread:
    """Thread with an event loop that takes batches from a pipeline and exports them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._thread: threading.Thread | None = None
        # Prevents the thread from being started twice. Reentrant, for the same reason as the pipeline's lock.
        self._lock = threading.RLock()
        self._exporters: dict[LightningStore, SpanExporter] = {}
        self._saved = 0
        self.is_asleep = True
        """True if the thread has not started or is waiting for items. A caller that adds an item then calls `wake`."""

    def wake(self) -> None:
        """Make the thread check for queued items and waiting flushes. Start it if necessary."""
        self._start()
        with suppress(RuntimeError):  # the loop is closed because the thread has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    def send_leftovers(self, store: LightningStore) -> None:
        """Make the thread send the items that earlier processes left on disk for `store`."""
        self._start()
        self._loop.call_soon_threadsafe(lambda: self._exporter(store).send_leftovers())

    def stop(self) -> int:
        """End the thread, even in the middle of an export. Return the number of items that remain on disk."""
        if self._thread:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
        return self._saved

    @property
    def is_idle(self) -> bool:
        """True if every item has been stored, dropped or saved on disk."""
        exporters = list(self._exporters.values())
        return self.is_asleep and self._pipeline.is_empty and all(exporter.is_idle for exporter in exporters)

    @property
    def is_current(self) -> bool:
        """True if the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def close_in_child(self) -> None:
        """In a forked child, close the disk buffers' files, which belong to the parent process."""
        for exporter in self._exporters.values():
            exporter.close_in_child()

    def _exporter(self, store: LightningStore) -> SpanExporter:
        if store not in self._exporters:
            pipeline = self._pipeline
            self._exporters[store] = SpanExporter(store, pipeline.drops, pipeline.mark_exported, pipeline.notify_late)
        return self._exporters[store]

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._loop = asyncio.new_event_loop()
            self._woken = asyncio.Event()
            # Use an empty context, because the thread does not belong to the rollout whose span happened to start it.
            self._task = self._loop.create_task(self._run(), context=Context())
            self._thread = threading.Thread(target=self._run_loop, name="agentlightning-exporter", daemon=True)
            Context().run(self._thread.start)

    def _run_loop(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        # The store client's own requests do not belong to any trace, so they must not be recorded.
        context.attach(context.set_value(SUPPRESSED, True))
        try:
            while True:
                await self._sleep_until_woken()
                await self._wait_for_batch()
                while not self._pipeline.is_empty:
                    for exporter, batch in self._take_batches():
                        await exporter.export(batch)
        finally:
            while not self._pipeline.is_empty:
                for exporter, batch in self._take_batches():
                    exporter.buffer(batch)
            for exporter in self._exporters.values():
                self._saved += await exporter.stop()

    def _take_batches(self) -> Iterator[tuple[SpanExporter, SpanBatch]]:
        for store, items in groupby(self._pipeline.take_batch(), key=lambda entry: entry[1]):
            yield self._exporter(store), SpanBatch.from_items([item for item, _ in items], self._pipeline.drops)

    async def _sleep_until_woken(self) -> None:
        self.is_asleep = True
        # Check the queue again: an item that was added before `is_asleep` was set did not wake the thread.
        if self._pipeline.is_empty:
            await self._woken.wait()
        self.is_asleep = False
        self._woken.clear()

    async def _wait_for_batch(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_SECONDS):
                while not self._pipeline.is_batch_ready:
                    await self._woken.wait()
                    self._woken.clear()


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()
_threads_of_parent: list[ExportThread] = []
"""In a forked child, the copies of the parent process's export threads. They are referenced here so that their event
loops are not garbage-collected: that would close the loops, and because each loop shares file descriptors with the
original loop in the parent, closing it would affect the original."""


def flush_all(timeout: float) -> bool:
    """Flush every pipeline in the process. Return False if any flush took longer than `timeout` seconds."""
    flushed = [pipeline.flush_blocking(timeout) for pipeline in list(_pipelines)]
    return all(flushed)


def _reset_in_child() -> None:
    for pipeline in list(_pipelines):
        pipeline.reset_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
atexit.register(flush_all, EXIT_TIMEOUT)
