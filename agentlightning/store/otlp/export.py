"""Export of stored spans over OTLP/HTTP to backends such as Phoenix, Langfuse, Jaeger, MLflow or a collector.

The database is the queue: the store saves the position of the last span that was exported to each target. After an
outage of the target or a restart of the store, the export continues from this position. The export runs in a separate
thread and releases the GIL after every span, so that it does not delay requests to the store. The official exporter,
opentelemetry-exporter-otlp-proto-http, is not suitable: it does not report HTTP statuses or partial successes, drops a
batch when all retries have failed, and encodes a whole batch in one call.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from ...errors import InvalidInput, StoreUnavailable
from ...retry import RetryPolicy
from ..db.signals import Topic
from ..sql import SqlStore
from . import PATH, PROTOBUF
from .encode import encode_span

logger = logging.getLogger(__name__)

MAX_BATCH_SPANS = 256
MAX_BATCH_BYTES = 1024 * 1024
"""Maximum size of a batch, in bytes of JSON text. A span that exceeds this size is sent alone."""
BATCH_DELAY_SECONDS = 1.0
"""Seconds to wait for more spans before sending a batch.

Each batch requires a commit that saves the export's position and may delay other commits. Larger batches require fewer
of these commits.
"""
POLL_INTERVAL_SPANS = 5.0
"""Seconds between checks for new spans, in case a notification from another server was lost."""
POLL_INTERVAL_COMMITS = 0.05
"""Seconds between checks while other servers have unfinished transactions that may add earlier spans."""
RETRY = RetryPolicy(first_delay=0.5, max_delay=60.0)
MAX_PROBES = 8
"""Maximum number of newer spans to send as a test if a target rejects the oldest ones before it accepts any."""
IDLE_RATIO = 2.0
"""Duration of the pause after a batch, as a multiple of the CPU time that the thread used for the batch."""
DRAIN_SECONDS = 3.0
"""Maximum seconds to spend on sending pending spans when the store stops."""
RESPONSE_TIMEOUT = 30.0
MAX_RESPONSE_BYTES = 64 * 1024
MAX_RETRY_AFTER = 300.0

_TOO_LARGE = 413
_REJECTED = frozenset({400, _TOO_LARGE, 422})
"""HTTP statuses that the target would return again if the request were retried."""

Rejection = tuple[int, str]
"""The number of rejected spans and the reason for their rejection."""


@dataclass(frozen=True)
class OtlpTarget:
    """An OTLP/HTTP receiver and its name. The store saves the position of the export under this name."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def parse(cls, text: str, headers: Mapping[str, str] | None = None) -> OtlpTarget:
        """Parse `NAME=URL`, or a URL, whose host and port become the name. Raises `InvalidInput` for any other text."""
        name, mark, url = text.partition("=")
        if not mark or "/" in name:
            name, url = "", text
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput("write an OTLP target as [NAME=]URL, with http:// or https://", field="export_otlp")
        if parts.username or parts.password:
            raise InvalidInput("pass the API key for an OTLP target in a header, not in the URL", field="export_otlp")
        if not parts.path.endswith(PATH):
            parts = parts._replace(path=f"{parts.path.rstrip('/')}{PATH}")
        return cls(name or parts.netloc, parts.geturl(), headers or {})


def parse_headers(text: str) -> dict[str, str]:
    """Parse headers in OpenTelemetry's format `name=value,name=value`. Raises `InvalidInput` for any other text."""
    headers: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, mark, value = entry.partition("=")
        if not mark or not name.strip() or not (name + value).isprintable():
            raise InvalidInput("write headers of an OTLP target as name=value,name=value", field="export_headers")
        headers[unquote(name.strip())] = unquote(value.strip())
    return headers


@dataclass(frozen=True)
class ExportCounts:
    """Counts of spans and failures for one target. All except `waiting` start at 0 when the export starts."""

    target: str
    sent: int
    rejected: int
    """Spans that the target has permanently rejected or that cannot be encoded as OTLP."""
    failures: int
    """Failures to send spans, in most cases because the target was unreachable."""
    waiting: int
    """Spans that have not been sent yet. This is an upper bound, because it may include deleted spans."""


class OtlpExporter:
    """Sends a store's spans to targets. If `past` is true, a new target also receives all earlier spans."""

    def __init__(self, store: SqlStore, targets: Sequence[OtlpTarget], *, past: bool = False) -> None:
        names = [target.name for target in targets]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise InvalidInput(f"two OTLP targets are named {duplicates.pop()!r}: write NAME=URL", field="export_otlp")
        self._store = store
        self._stopping = asyncio.Event()
        self._exports = [_TargetExport(store, target, self._stopping, past=past) for target in targets]
        self._loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self._thread: threading.Thread

    async def counts(self) -> list[ExportCounts]:
        """Return the counters for each target."""
        newest = (await self._store.span_watermark()).ordinal
        return [export.counts(newest) for export in self._exports]

    def start(self) -> None:
        """Start the export thread and wait until it has tried to register every target."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="agl-export", daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Send pending spans for up to `DRAIN_SECONDS`, and stop the thread.

        If the store is durable, the remaining spans are sent after its next start.
        """
        with suppress(RuntimeError):  # the loop is closed, because the export has failed
            self._loop.call_soon_threadsafe(self._request_stop)
        self._thread.join()

    def _request_stop(self) -> None:
        self._stopping.set()
        for export in self._exports:
            export.new_spans.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._store.signals.subscribe(self._on_commit)
        try:
            with suppress(StoreUnavailable):  # each export registers its target again before it reads spans
                for export in self._exports:
                    await export.register()
            self._started.set()
            await self._export_all()
        finally:
            self._started.set()
            self._store.signals.unsubscribe(self._on_commit)

    async def _export_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT)
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
            tasks = {asyncio.create_task(export.run(session)) for export in self._exports}
            await self._stopping.wait()
            _, unfinished = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._log_pending()

    async def _log_pending(self) -> None:
        outcome = "they will be sent after the next start" if self._store.capabilities["durable"] else "they are lost"
        with suppress(StoreUnavailable):
            for each in await self.counts():
                if each.waiting > 0:
                    logger.warning("%s could not be sent to %s; %s", _count(each.waiting), each.target, outcome)

    def _on_commit(self, topic: Topic) -> None:
        """Wake the exports after spans are committed. Called in the thread that commits."""
        if topic[0] == "spans":
            for export in self._exports:
                if not export.is_notified:
                    export.is_notified = True
                    with suppress(RuntimeError):  # the loop is closed, because the export has stopped
                        self._loop.call_soon_threadsafe(export.new_spans.set)


class _TargetExport:
    """The export to one target: the position among the stored spans, the requests and the retries."""

    def __init__(self, store: SqlStore, target: OtlpTarget, stopping: asyncio.Event, *, past: bool) -> None:
        self.is_notified = False
        """True if `new_spans` is set or about to be set."""
        self.new_spans = asyncio.Event()
        self._store = store
        self._target = target
        self._stopping = stopping
        self._past = past
        self._has_accepted = False
        """True if the target has accepted a request since the export started. If so, it does not reject all spans."""
        self._position = 0
        self._sent_ahead: set[bytes] = set()
        """JSON text of the spans after the saved position that have already been sent or rejected."""
        self._sent = self._rejected = self._failures = self._retries = 0
        self._last_problem: str | None = None

    def counts(self, newest: int) -> ExportCounts:
        waiting = max(0, newest - self._position)
        return ExportCounts(self._target.name, self._sent, self._rejected, self._failures, waiting)

    async def register(self) -> None:
        """Create a position for the target if it does not have one yet."""
        await self._store.register_export_target(self._target.name, past=self._past)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Send new spans, and retry after failures, until the export is stopped."""
        while True:
            is_last = self._stopping.is_set()
            try:
                await self._send_new_spans(session)
            except Exception as error:
                await self._back_off(error)
            else:
                self._log_recovery()
            if is_last:
                return
            if self._last_problem is None:
                await _wait(self.new_spans, POLL_INTERVAL_SPANS)
                await _wait(self._stopping, BATCH_DELAY_SECONDS)

    async def _send_new_spans(self, session: aiohttp.ClientSession) -> None:
        self.new_spans.clear()
        self.is_notified = False  # before the watermark is read, so that no span is missed
        await self.register()
        self._position = await self._store.last_exported_ordinal(self._target.name)
        watermark = await self._store.span_watermark()
        while not await self._store.is_settled(watermark):  # noqa: ASYNC110 - no event reports these commits
            await asyncio.sleep(POLL_INTERVAL_COMMITS)
        newest = watermark.ordinal
        while self._position < newest:
            started = time.thread_time()
            batch = await self._store.spans_between(self._position, newest, MAX_BATCH_SPANS, MAX_BATCH_BYTES)
            if not batch:  # the spans were deleted
                break
            payloads = [payload for _, payload in batch]
            try:
                await self._send(session, [each for each in payloads if each not in self._sent_ahead])
            except ReceiverRejectsAll as rejection:
                await self._probe(session, newest, rejection)
                continue
            self._sent_ahead.difference_update(payloads)
            self._position = await self._store.record_exported(self._target.name, *batch[-1])
            # Pause, so that a long backlog does not slow down the store.
            await _wait(self._stopping, IDLE_RATIO * (time.thread_time() - started))

    async def _probe(self, session: aiohttp.ClientSession, newest: int, rejection: ReceiverRejectsAll) -> None:
        """Send some newer spans one by one, after the target has rejected the oldest ones.

        Return when the target accepts a span, which shows that it does not reject all spans. If it rejects all of the
        newer spans, raise `rejection`.
        """
        waiting = range(self._position + 1, newest)
        for ordinal in [*sorted(random.sample(waiting, min(len(waiting), MAX_PROBES - 1))), newest]:
            payloads = [payload for _, payload in await self._store.spans_between(ordinal - 1, newest, 1, 1)]
            with suppress(ReceiverRejectsAll):
                await self._send(session, payloads)
                self._sent_ahead.update(payloads)
            if self._has_accepted:
                return
        raise rejection

    # Requests

    async def _send(self, session: aiohttp.ClientSession, payloads: Sequence[bytes]) -> None:
        """Send spans until each is accepted or rejected. Raises `ReceiverUnavailable` if the target is unavailable."""
        rejections: list[Rejection] = []
        spans: list[bytes] = []
        for payload in payloads:
            try:
                spans.append(encode_span(payload))
            except Exception as error:
                rejections.append((1, f"the span cannot be encoded as OTLP: {error!r}"))
            await asyncio.sleep(0)  # release the GIL, so that threads that serve requests can run
        if spans:
            rejections += await self._deliver(session, spans)
        for count, reason in rejections:
            logger.warning("%s rejects %s: %s", self._target.name, _count(count), reason)
        rejected = sum(count for count, _ in rejections)
        self._rejected += rejected
        self._sent += len(payloads) - rejected

    async def _deliver(self, session: aiohttp.ClientSession, spans: Sequence[bytes]) -> list[Rejection]:
        status, answer, retry_after = await self._post(session, gzip.compress(b"".join(spans), compresslevel=1))
        if status == 200:
            self._has_accepted = True
            return _partial_rejection(answer)
        reason = f"{status}: {answer[:300].decode(errors='replace')}"
        if status not in _REJECTED:
            raise ReceiverUnavailable(f"the target returned {status}", retry_after)
        if status != _TOO_LARGE and not self._has_accepted:
            raise ReceiverRejectsAll(f"the target has not accepted any spans yet, {reason}")
        if len(spans) == 1:
            return [(1, reason)]
        middle = len(spans) // 2  # the request is too large or contains an invalid span
        return [*await self._deliver(session, spans[:middle]), *await self._deliver(session, spans[middle:])]

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int, bytes, float]:
        headers = {**self._target.headers, "Content-Type": PROTOBUF, "Content-Encoding": "gzip"}
        try:
            async with session.post(self._target.url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.content.read(MAX_RESPONSE_BYTES)
                retry_after = response.headers.get("retry-after", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ReceiverUnavailable(f"the target is unreachable: {type(error).__name__}") from None
        seconds = min(float(retry_after), MAX_RETRY_AFTER) if retry_after.isdigit() else 0.0
        return response.status, answer, seconds

    # Retries

    async def _back_off(self, error: Exception) -> None:
        self._failures += 1
        if not isinstance(error, ReceiverUnavailable | StoreUnavailable):
            logger.exception("The export of spans to %s failed; retrying", self._target.name)
        problem = str(error) or type(error).__name__
        if problem != self._last_problem:
            logger.warning("Spans for %s remain in the store and will be sent again: %s", self._target.name, problem)
        self._last_problem = problem
        retry_after = error.retry_after if isinstance(error, ReceiverUnavailable) else 0.0
        await _wait(self._stopping, max(RETRY.delay(self._retries), retry_after))
        self._retries += 1

    def _log_recovery(self) -> None:
        if self._last_problem is not None:
            logger.warning("%s is accepting spans again and has received all of them", self._target.name)
        self._last_problem, self._retries = None, 0


class ReceiverUnavailable(Exception):
    """The target is not accepting requests at the moment."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ReceiverRejectsAll(ReceiverUnavailable):
    """The target has not accepted any spans yet. It may reject all requests, for example due to a missing header."""


def _partial_rejection(answer: bytes) -> list[Rejection]:
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:  # some receivers respond with 200 and JSON or plain text
        return []
    return [(partial.rejected_spans, partial.error_message)] if partial.rejected_spans > 0 else []


def _count(spans: int) -> str:
    return "1 span" if spans == 1 else f"{spans} spans"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
