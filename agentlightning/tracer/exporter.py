"""Export of span batches to a store, in order, with retries and a disk buffer.

While the store answers, a batch goes straight to it. If the store is unreachable or slow, that batch and all that
follow are written to the disk buffer, which is sent from its beginning until it is empty. A sudden end of the process
therefore loses at most what had not been written yet, and memory use stays bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

from ..errors import AgentLightningError, Conflict, NotFound, StoreUnavailable
from ..retry import RetryPolicy
from ..semconv import LATE
from ..store.contract import LightningStore
from ..types import AttemptRef, Span
from .disk_buffer import DiskBuffer, buffer_folder, claim, leftover_files, remove, set_aside
from .spans import DropCounter, SpanBatch, resolve

T = TypeVar("T")

logger = logging.getLogger("agentlightning.tracer")

RETRY = RetryPolicy(first_delay=0.1, max_delay=5.0)
SLOW_STORE_SECONDS = 1.0
"""Time that a reachable store may take over a batch before the following batches go to disk."""
STOPPED = "the tracer was stopped before the store became reachable"
POLL_INTERVAL_REACHABLE = 0.05
"""Interval at which an export checks whether the store has become unreachable."""


class SpanExporter:
    """Exporter for one store, used in one event loop."""

    def __init__(
        self,
        store: LightningStore,
        dropped: DropCounter | None = None,
        on_exported: Callable[[int], None] = lambda _: None,
        on_late: Callable[[AttemptRef], None] = lambda _: None,
    ) -> None:
        self._store = store
        self.dropped = dropped or DropCounter()
        self._on_exported = on_exported
        """Called with the number of queue items that were stored or dropped."""
        self._on_late = on_late
        """Called with each attempt whose spans the store marks as late: the attempt has already finished there."""
        self._retrying = False
        """True if the store is unreachable and a request is being repeated."""
        self._folder = buffer_folder(store)
        self._buffer = DiskBuffer(self._folder)
        self._waiting: deque[tuple[SpanBatch, bool]] = deque()
        """Batches that wait; True for those on disk, which are here without their spans."""
        self._draining: asyncio.Task[None] | None = None
        self._leftovers: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """True if nothing waits here, or everything that waits survives the end of this process."""
        return self._draining is None or self._buffer.path is not None

    async def export(self, batch: SpanBatch) -> None:
        """Return when the batch is stored, or in the disk buffer behind the batches that wait there."""
        if self._draining is None:
            sending = asyncio.create_task(self._send_and_count(batch))
            try:
                if await self._finishes_soon(sending):
                    return
            except asyncio.CancelledError:
                if not sending.done() or sending.cancelled():
                    self.buffer(batch)  # may be stored already; the store recognizes a repeated span
                raise
            self._draining = asyncio.create_task(self._drain(sending))
        if not self.buffer(batch):
            # Neither the store nor the disk accepts the batch: stop taking more from the queue until the store does.
            await asyncio.wait({self._draining})

    async def send(self, batch: SpanBatch) -> None:
        """Send a batch without the disk buffer, with retries. Never raises because of a span or a report."""
        if batch.spans:
            await self._send_spans(list(batch.spans))
        # Concurrently, so that the store can commit the reports together.
        results = await asyncio.gather(
            *(self._with_retries(self._store.update_attempt, **report.fields) for report in batch.reports),
            return_exceptions=True,
        )
        for report, result in zip(batch.reports, results, strict=True):
            resolve(report.answer, result)

    def buffer(self, batch: SpanBatch) -> bool:
        """Append the batch to the disk buffer; return False if it has to wait in memory because the disk failed."""
        is_first = not self._waiting
        try:
            self._buffer.append(batch.to_line())
        except (OSError, AgentLightningError) as error:
            logger.error("The store is unreachable and spans cannot be written to disk: %s", error)
            self._waiting.append((batch, False))
            return False
        self._waiting.append((replace(batch, spans=()), True))
        if is_first and self._buffer.path:
            logger.warning("The store does not answer; spans and results are buffered in %s", self._buffer.path)
        return True

    def send_leftovers(self) -> None:
        """Send what processes that have ended left in disk buffers for this store."""
        if self._leftovers is None and self._folder and leftover_files(self._folder):
            self._leftovers = asyncio.create_task(self._send_leftovers(self._folder))

    async def stop(self) -> int:
        """Cancel all sending; return the number of items that stay on disk for the next process."""
        for task in (self._draining, self._leftovers):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        path, saved = self._buffer.path, 0
        for batch, is_on_disk in self._waiting:
            saved += batch.count if path and is_on_disk else 0
            for report in batch.reports:
                resolve(report.answer, StoreUnavailable(STOPPED))
        if saved:
            logger.warning("%d spans and results stay in %s; the next runner on this machine sends them", saved, path)
        self._buffer.close()
        return saved

    def close_in_child(self) -> None:
        """Close the buffer file after a fork: it belongs to the parent, and an open copy would hold its lock."""
        self._buffer.close()

    # Sending

    async def _send_and_count(self, batch: SpanBatch) -> None:
        await self.send(batch)
        self._on_exported(batch.count)

    async def _finishes_soon(self, sending: asyncio.Task[None]) -> bool:
        try:
            for _ in range(round(SLOW_STORE_SECONDS / POLL_INTERVAL_REACHABLE)):
                if (await asyncio.wait({sending}, timeout=POLL_INTERVAL_REACHABLE))[0]:
                    return True
                if self._retrying or self._store.is_unreachable:
                    return False
            return False
        except asyncio.CancelledError:
            sending.cancel()
            await asyncio.wait({sending})
            raise

    async def _send_spans(self, spans: list[Span]) -> None:
        try:
            stored = await self._with_retries(self._store.add_many_spans, spans)
        except (NotFound, Conflict) as error:
            await self._send_parts(_by_attempt(spans), error)
        except Exception as error:
            middle = len(spans) // 2
            await self._send_parts([part for part in (spans[:middle], spans[middle:]) if part], error)
        else:
            for late in _by_attempt([span for span in stored if LATE in span.attributes]):
                self._on_late(AttemptRef(rollout_id=late[0].rollout_id, attempt_id=late[0].attempt_id))

    async def _send_parts(self, parts: list[list[Span]], error: Exception) -> None:
        """Send the parts of a refused batch one by one; drop a part that cannot be divided any more."""
        if len(parts) > 1:
            for part in parts:
                await self._send_spans(part)
            return
        [spans] = parts
        span = f"{spans[0].name!r} of rollout {spans[0].rollout_id}, attempt {spans[0].attempt_id}"
        self.dropped.drop(len(spans), f"the store refused {span}: {type(error).__name__}: {error}")

    async def _with_retries(self, operation: Callable[..., Awaitable[T]], *args: object, **kwargs: object) -> T:
        retries = 0
        try:
            while True:
                try:
                    return await operation(*args, **kwargs)
                except (ConnectionError, TimeoutError) as error:
                    logger.debug("The store is unreachable (%s); retrying", error)
                self._retrying = True
                await asyncio.sleep(RETRY.delay(retries))
                retries += 1
        finally:
            self._retrying = False

    # The disk buffer

    async def _drain(self, first: asyncio.Task[None]) -> None:
        """Send what is in the disk buffer; its first batch is being sent already."""
        await first
        self._remove_first()
        while self._waiting:
            await self._send_and_count(self._read_first())
            self._remove_first()
        self._draining = None
        self.send_leftovers()

    def _read_first(self) -> SpanBatch:
        batch, is_on_disk = self._waiting[0]
        return replace(batch, spans=SpanBatch.from_line(self._buffer.first()).spans) if is_on_disk else batch

    def _remove_first(self) -> None:
        _, is_on_disk = self._waiting.popleft()
        if is_on_disk:
            self._buffer.remove_first()

    async def _send_leftovers(self, folder: Path) -> None:
        try:
            for path in leftover_files(folder):
                with claim(path) as file:
                    if file is not None:
                        await self._send_file(path, file)
        except OSError as error:
            logger.warning("Spans that an earlier process left for the store cannot be read: %s", error)
        finally:
            self._leftovers = None

    async def _send_file(self, path: Path, file: IO[bytes]) -> None:
        spans = reports = 0
        exporter = SpanExporter(self._store)  # what it drops is kept in the file, so it does not count as lost
        try:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # its process was killed while it wrote the line
                batch = SpanBatch.from_line(line)
                await exporter.send(batch)
                spans += len(batch.spans)
                reports += _stored_reports(batch)
        except ValueError as error:  # damaged, or written by a release with another format: it must not block the rest
            logger.warning("Spans of an earlier process in %s cannot be read: %s", set_aside(path), error)
            return
        logger.info("Sent spans and results of an earlier process from %s: %d spans, %d results", path, spans, reports)
        if exporter.dropped.count:
            logger.warning("Spans that the store refused stay in %s; inspect and delete the file", set_aside(path))
        else:
            remove(path)


def _by_attempt(spans: list[Span]) -> list[list[Span]]:
    parts: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        parts.setdefault((span.rollout_id, span.attempt_id), []).append(span)
    return list(parts.values())


def _stored_reports(batch: SpanBatch) -> int:
    """Return the number of reports that the store accepted, and log the errors of the others."""
    errors = [error for report in batch.reports if (error := report.answer.exception())]
    for error in errors:
        logger.warning("The store refused a result that an earlier process left: %s", error)
    return len(batch.reports) - len(errors)
