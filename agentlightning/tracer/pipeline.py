"""From ended spans to the store: a bounded queue in memory and one thread that empties it.

Whoever ends a span only appends to the queue: no lock, no waiting, no network. The exporter's thread has an event loop
of its own; it wakes when the queue stops being empty, gathers for a moment, and gives what there is to the couriers,
which bring it to the store or, while that is away, to disk. So the queue is full only when neither takes anything.
`flush` takes a ticket, the number of items put until then, and waits until so many have left, stored or dropped.
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
from concurrent.futures import Future, TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from contextvars import Context
from itertools import groupby
from typing import Any

from opentelemetry import context

from ..errors import StoreUnavailable
from ..instrumentation.context import SUPPRESSED
from ..store.contract import LightningStore
from ..types import Attempt, AttemptRef, AttemptStatus, Span
from .delivery import Sender, logger
from .disk_buffer import folder_of, left_behind
from .exporter import Courier
from .finished_span import EndedSpan
from .span_batch import Item, Parcel, Report, packed, settle

BATCH_SPANS = 256
BATCH_BYTES = 1_000_000
GATHER_SECONDS = 0.05
"""How long a batch may take to fill, unless somebody waits for a flush."""

QUEUE_SPANS = 50_000
QUEUE_BYTES = 256_000_000
ROOM_SECONDS = 5.0
"""How long the end of a span waits for room in a queue that is full."""
STOP_SECONDS = 5.0
"""How long stopping waits for the store to take what is queued."""
LOOK_SECONDS = 0.02
EXIT_SECONDS = 2.0
"""The same at the end of the process."""


class Pipeline:
    """The way from a tracer to its stores. The thread starts with the first span, and anew after a fork."""

    def __init__(self) -> None:
        self._running = False
        self._listeners: tuple[Callable[[AttemptRef], None], ...] = ()
        self._begin()
        _pipelines.add(self)

    def _begin(self) -> None:
        self._queue: deque[tuple[Item, LightningStore]] = deque()
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
        self._room = threading.Condition()

    @property
    def dropped(self) -> int:
        """Spans that could not be stored: nobody took them, or the store refused them for good."""
        return self._sender.dropped + self._exporter.dropped

    @property
    def is_empty(self) -> bool:
        """Nothing waits to be taken."""
        return not self._queue

    @property
    def hurried(self) -> bool:
        """Somebody waits, or a batch is full: no reason to gather any longer."""
        return bool(self._tickets) or len(self._queue) >= BATCH_SPANS or self._bytes >= BATCH_BYTES

    def start(self, store: LightningStore | None = None) -> None:
        """Take items from now on. What earlier processes could not bring to `store` is sent."""
        self._running, self._full = True, False
        if store and (folder := folder_of(store)) and left_behind(folder):
            with self._lock:
                self._exporter.look_for_leftovers(store)

    def put(self, ended: EndedSpan, store: LightningStore) -> None:
        """Queue a span for `store`; it is dropped, and counted, when nobody empties the queue any more."""
        if not self._running or not (self._has_room() or self._gets_room()):
            self._turn_away()
            return
        self._append(ended, store)

    async def report(
        self, store: LightningStore, rollout_id: str, attempt_id: str, status: AttemptStatus, metadata: dict[str, Any]
    ) -> Attempt:
        """Say how an attempt ended, behind all that was put before; the store's answer. Raises what it raises."""
        report = Report(rollout_id, attempt_id, status, metadata)
        self._append(report, store)
        self._ticket()  # no gathering: somebody waits
        return await asyncio.wrap_future(report.answer)

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
        """Send what is queued, for at most `STOP_SECONDS` unless it is safe on disk, and end the thread."""
        self._running = False
        self._leave()
        safe, waited = self._exporter.stop(), len(self._queue) + self._leaving
        if waited > safe:
            self._sender.drop(waited - safe, f"the store did not take them within {STOP_SECONDS:g} s of their end")
        dropped = self.dropped
        if self._full:
            logger.error("%d spans were dropped in all", dropped)
        self._resolve_all()
        self._begin()
        self._sender.dropped = dropped

    @contextmanager
    def telling(self, listener: Callable[[AttemptRef], None]) -> Generator[None]:
        """Within it, `listener` hears of attempts whose spans came too late; from the exporter's thread."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(each for each in self._listeners if each != listener)

    def late(self, attempt: AttemptRef) -> None:
        """For the couriers: the store has given the attempt up, and says so in its answer to spans."""
        for listener in self._listeners:
            listener(attempt)

    def take(self) -> list[tuple[Item, LightningStore]]:
        """For the exporter: the next batch, oldest first."""
        batch: list[tuple[Item, LightningStore]] = []
        size = 0
        with self._lock:
            while self._queue and len(batch) < BATCH_SPANS and size < BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += batch[-1][0].size
            self._leaving += len(batch)
            self._bytes = self._bytes - size if self._queue else 0
        with self._room:
            self._room.notify_all()
        return batch

    def done(self, count: int) -> None:
        """For the couriers: so many items have been stored or dropped, in the order they were taken."""
        with self._lock:
            self._left += count
            self._leaving -= count
            reached = [ticket for ticket in self._tickets if ticket[0] <= self._left]
            self._tickets = [ticket for ticket in self._tickets if ticket[0] > self._left]
        for _, future in reached:
            _resolve(future)

    def _append(self, item: Item, store: LightningStore) -> None:
        self._bytes += item.size  # threads may overwrite each other's sum; the bound need not be exact
        self._queue.append((item, store))
        if self._exporter.asleep or len(self._queue) == BATCH_SPANS:
            self._wake()

    def _has_room(self) -> bool:
        return len(self._queue) < QUEUE_SPANS and self._bytes < QUEUE_BYTES

    def _gets_room(self) -> bool:
        if self._exporter.is_this_thread:  # a collected object may end a span anywhere
            return True
        with self._room:
            return self._room.wait_for(self._has_room, ROOM_SECONDS)

    def _leave(self) -> None:
        """Return when everything is stored, dropped, or on disk; or when that takes too long."""
        ticket, until = self._ticket(), time.monotonic() + STOP_SECONDS
        while ticket and time.monotonic() < until and not self._exporter.is_idle:
            with suppress(FutureTimeoutError):
                ticket.result(LOOK_SECONDS)
                break

    def convert(self, ended: EndedSpan) -> Span | None:
        """For the exporter: the span in our form, or None where it has none and is dropped."""
        return self._sender.convert(ended)

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
        for item, _ in self._queue:
            if isinstance(item, Report):
                settle(item.answer, None, StoreUnavailable("the tracer ended before the store was back"))

    def _wake(self) -> None:
        with self._lock:
            self._exporter.wake()

    def _turn_away(self) -> None:
        if self._full:
            self._sender.dropped += 1  # said once, and again with the sum when the tracer ends
            return
        self._full = True
        full = "the queue is full, and neither the store nor the disk takes anything"
        why = full if self._running else "their tracer has ended"
        self._sender.drop(1, why)


class _Exporter:
    """The thread that empties a pipeline's queue."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._thread: threading.Thread | None = None
        self._couriers: dict[LightningStore, Courier] = {}
        self._safe = 0
        self.asleep = True
        """The queue was empty: whoever puts something into it must call `wake`."""

    def wake(self) -> None:
        """Look at the queue, and whether somebody waits for it."""
        if self._thread is None:
            self._start()
        with suppress(RuntimeError):  # the loop has been closed: it is the end
            self._loop.call_soon_threadsafe(self._woken.set)

    def look_for_leftovers(self, store: LightningStore) -> None:
        """Have what earlier processes left behind sent."""
        if self._thread is None:
            self._start()
        self._loop.call_soon_threadsafe(lambda: self._courier(store).look_for_leftovers())

    def stop(self) -> int:
        """End the thread, whatever it is doing; how many items wait on disk for the next process."""
        if self._thread:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
        return self._safe

    @property
    def dropped(self) -> int:
        """Spans that stores have refused for good."""
        return sum(courier.dropped for courier in list(self._couriers.values()))

    @property
    def is_idle(self) -> bool:
        """Whatever was taken is with its store, or safe on disk."""
        couriers = list(self._couriers.values())
        return self.asleep and self._pipeline.is_empty and all(courier.is_idle for courier in couriers)

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is the exporter itself."""
        return threading.current_thread() is self._thread

    def close_in_child(self) -> None:
        """Let go of files that are the parent's."""
        for courier in self._couriers.values():
            courier.close_in_child()

    def _courier(self, store: LightningStore) -> Courier:
        if store not in self._couriers:
            self._couriers[store] = Courier(store, self._pipeline.done, self._pipeline.late)
        return self._couriers[store]

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
        try:
            while True:
                await self._sleep_until_woken()
                await self._gather()
                while not self._pipeline.is_empty:
                    await self._bring(self._pipeline.take())
        finally:
            self._keep_the_rest()
            for courier in self._couriers.values():
                self._safe += await courier.stop()

    def _keep_the_rest(self) -> None:
        """What the store had no time for goes to disk."""
        while not self._pipeline.is_empty:
            for courier, parcel in self._parcels(self._pipeline.take()):
                courier.keep(parcel)

    async def _bring(self, batch: list[tuple[Item, LightningStore]]) -> None:
        for courier, parcel in self._parcels(batch):
            await courier.bring(parcel)

    def _parcels(self, batch: list[tuple[Item, LightningStore]]) -> Iterator[tuple[Courier, Parcel]]:
        for store, items in groupby(batch, key=lambda item: item[1]):
            yield self._courier(store), packed((item for item, _ in items), self._pipeline.convert)

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
        pipeline._exporter.close_in_child()  # pyright: ignore[reportPrivateUsage]
        _before_fork.append(pipeline._exporter)  # pyright: ignore[reportPrivateUsage]
        pipeline._begin()  # pyright: ignore[reportPrivateUsage]


def _resolve(future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
atexit.register(flush_everything, EXIT_SECONDS)
