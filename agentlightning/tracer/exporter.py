"""Export of span batches to a store, in order, with retries and a disk buffer.

While the store responds, batches are sent to it directly. If the store is unreachable or slow, the current batch and
all later ones are written to the disk buffer. The buffer's contents are then sent in order, and once the buffer is
empty, batches are sent directly again. Unsent spans therefore do not accumulate in memory. If the process is killed,
the spans that have been neither sent nor written to disk are lost. If the store has neither a URL nor a path, the
contents of the disk buffer are lost too.
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
"""Maximum time in seconds to wait for a reachable store to accept a batch. After that, the batch and all later ones are
written to disk."""
STOPPED = "the tracer was stopped before the store became reachable"
DISK_RETRY_INTERVAL = 0.5
"""Interval in seconds between attempts to write a batch to disk while neither the store nor the disk accepts it."""
POLL_INTERVAL_REACHABLE = 0.05
"""Interval in seconds at which the exporter, while it sends a batch, checks if the store has become unreachable."""


class SpanExporter:
    """Sends span batches to one store. All calls to an exporter must be made in the same event loop."""

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
        """Called after each batch with the number of items (spans and attempt reports) that were stored or dropped."""
        self._on_late = on_late
        """Called with each attempt that has late spans, which are spans that arrived after the attempt had ended."""
        self._retrying = False
        """True while a request is being retried because the store is unreachable."""
        self._folder = buffer_folder(store)
        self._buffer = DiskBuffer(self._folder)
        self._waiting: deque[tuple[SpanBatch, bool]] = deque()
        """Batches not yet sent, oldest first. The flag is True if a batch's spans are on disk instead of in memory."""
        self._is_disk_failing = False
        """True if the last batch could not be written to disk. This batch is then the only one in memory."""
        self._draining: asyncio.Task[None] | None = None
        self._leftovers: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """True if no batch is waiting, or if the waiting batches are in a file that remains after this process ends."""
        return self._draining is None or (self._buffer.path is not None and not self._is_disk_failing)

    async def export(self, batch: SpanBatch) -> None:
        """Send a batch, or append it to the disk buffer if the store is unreachable or slow."""
        if self._draining is None:
            sending = asyncio.create_task(self._send_and_count(batch))
            try:
                if await self._finishes_soon(sending):
                    return
            except asyncio.CancelledError:
                sending.cancel()
                await asyncio.wait({sending})
                if sending.cancelled():
                    self.buffer(batch)  # the spans may already be stored, but the store detects duplicates
                raise
            self._draining = asyncio.create_task(self._drain(sending))
        if not self.buffer(batch):
            await self._wait_for_store_or_disk(self._draining)

    async def send(self, batch: SpanBatch) -> None:
        """Send a batch directly, with retries but without the disk buffer.

        Spans that the store rejects are dropped. The store's response to a report, or its error, is set on the report's
        `answer`.
        """
        if batch.spans:
            await self._send_spans(list(batch.spans))
        # Send the reports concurrently, so that the store can commit them together.
        results = await asyncio.gather(
            *(self._with_retries(self._store.update_attempt, **report.fields) for report in batch.reports),
            return_exceptions=True,
        )
        for report, result in zip(batch.reports, results, strict=True):
            resolve(report.answer, result)

    def buffer(self, batch: SpanBatch) -> bool:
        """Append the batch to the disk buffer. If writing fails, keep the batch in memory and return False."""
        is_first = not self._waiting
        if not self._write_to_disk(batch):
            self._waiting.append((batch, False))
            return False
        self._waiting.append((replace(batch, spans=()), True))
        if is_first and self._buffer.path:
            logger.warning("The store is not responding; spans and results are being buffered in %s", self._buffer.path)
        return True

    def send_leftovers(self) -> None:
        """Start sending the spans and reports that earlier processes left in disk buffers for this store."""
        if self._leftovers is None and self._folder and leftover_files(self._folder):
            self._leftovers = asyncio.create_task(self._send_leftovers(self._folder))

    async def stop(self) -> int:
        """Stop all sending. Return the number of spans and reports that remain on disk for the next process."""
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
            logger.warning(
                "%d spans and results are saved in %s; the next runner of this store on this machine will send them",
                saved,
                path,
            )
        self._buffer.close()
        return saved

    def close_in_child(self) -> None:
        """In a forked child, close the buffer file, which belongs to the parent process.

        If the child kept the file open, the file would stay locked even after the parent has ended.
        """
        self._buffer.close()

    # Sending

    async def _send_and_count(self, batch: SpanBatch) -> None:
        await self.send(batch)
        self._on_exported(batch.count)

    async def _finishes_soon(self, sending: asyncio.Task[None]) -> bool:
        for _ in range(round(SLOW_STORE_SECONDS / POLL_INTERVAL_REACHABLE)):
            if (await asyncio.wait({sending}, timeout=POLL_INTERVAL_REACHABLE))[0]:
                return True
            if self._retrying or self._store.is_unreachable:
                return False
        return False

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
        """Send the parts of a rejected batch one by one. If the batch could not be divided, drop its spans."""
        if len(parts) > 1:
            for part in parts:
                await self._send_spans(part)
            return
        [spans] = parts
        span = f"{spans[0].name!r} of rollout {spans[0].rollout_id}, attempt {spans[0].attempt_id}"
        self.dropped.drop(len(spans), f"the store rejected {span}: {type(error).__name__}: {error}")

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

    async def _wait_for_store_or_disk(self, draining: asyncio.Task[None]) -> None:
        """Wait until the store or the disk has accepted the last batch. Until then, the caller must not send more."""
        while not (await asyncio.wait({draining}, timeout=DISK_RETRY_INTERVAL))[0]:
            batch, _ = self._waiting[-1]
            if self._write_to_disk(batch):
                self._waiting[-1] = replace(batch, spans=()), True
                return

    def _write_to_disk(self, batch: SpanBatch) -> bool:
        """Append the batch to the disk buffer, and return True on success.

        Of several consecutive failures, log only the first.
        """
        try:
            self._buffer.append(batch.to_line())
        except (OSError, AgentLightningError) as error:
            if not self._is_disk_failing:
                logger.error(
                    "The store is not responding, and spans cannot be written to disk (%s); waiting for either", error
                )
            self._is_disk_failing = True
            return False
        if self._is_disk_failing:
            logger.warning(
                "Spans and results can be written to disk again, to %s", self._buffer.path or "a temporary file"
            )
        self._is_disk_failing = False
        return True

    async def _drain(self, first: asyncio.Task[None]) -> None:
        """Send all waiting batches. The task `first` is already sending the first one."""
        await first
        self._remove_first()
        while self._waiting:
            await self._send_and_count(self._read_first())
            self._remove_first()
        self._draining, self._is_disk_failing = None, False
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
            logger.warning("Cannot read the spans that an earlier process saved for the store: %s", error)
        finally:
            self._leftovers = None

    async def _send_file(self, path: Path, file: IO[bytes]) -> None:
        spans = reports = 0
        exporter = SpanExporter(self._store)  # dropped spans stay in the file, so they are not counted as lost
        try:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the process was killed while it was writing the line
                batch = SpanBatch.from_line(line)
                await exporter.send(batch)
                spans += len(batch.spans)
                reports += _stored_reports(batch)
        except ValueError as error:  # a damaged or incompatible file must not block the other files
            logger.warning("Cannot read the spans that an earlier process saved in %s: %s", set_aside(path), error)
            return
        logger.info("Sent spans and results of an earlier process from %s: %d spans, %d results", path, spans, reports)
        if exporter.dropped.count:
            logger.warning(
                "The store rejected some spans of an earlier process. Inspect %s, then delete it", set_aside(path)
            )
        else:
            remove(path)


def _by_attempt(spans: list[Span]) -> list[list[Span]]:
    parts: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        parts.setdefault((span.rollout_id, span.attempt_id), []).append(span)
    return list(parts.values())


def _stored_reports(batch: SpanBatch) -> int:
    """Return the number of reports that the store accepted. Log the error for each report that it rejected."""
    errors = [error for report in batch.reports if (error := report.answer.exception())]
    for error in errors:
        logger.warning("The store rejected a result that an earlier process saved: %s", error)
    return len(batch.reports) - len(errors)
