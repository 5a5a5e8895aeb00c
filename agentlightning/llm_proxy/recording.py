"""Recording of model calls that pass through the LLM proxy. Each call is stored as a span of its attempt.

The proxy parses and redacts calls with the same code as the tracer in the agent's process. A call's span therefore has
the same format regardless of the component that recorded it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby

from .. import semconv
from ..instrumentation.call_record import MAX_BODY_BYTES, RAW_EVENTS, UNDECODED, error_message, parse_object
from ..instrumentation.dialects import ApiDialect, dialect_of
from ..instrumentation.dialects.base import Json, to_json
from ..instrumentation.llm_call import MAX_STREAM_BYTES, cut_request
from ..redaction import redact_bytes
from ..store.contract import LightningStore
from ..tracer.exporter import SpanExporter
from ..tracer.spans import DropCounter, FinishedSpan, SpanBatch
from ..types import OtelResource, Span, TraceStatus, trace_of
from .auth import ProxyRequest
from .responses import offload_if_large
from .routing import ModelServer

logger = logging.getLogger(__name__)

STORE_TIMEOUT = 10.0
"""Maximum time, in seconds, that an unreachable store delays a response to the agent.

The call's span remains queued until the store is reachable again.
"""
MAX_QUEUED_SPANS = 10_000
"""Maximum number of spans that are queued while the store is unreachable. Further spans are dropped."""
MAX_BATCH = 256

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class CallRecorder:
    """Records calls as spans and sends the spans to the store in batches."""

    def __init__(self, store: Callable[[], LightningStore | None]) -> None:
        self._store = store
        self._drops = DropCounter()
        self._queue: deque[tuple[FinishedSpan, LightningStore, asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    def start(self, request: ProxyRequest, server: ModelServer) -> CallRecording | None:
        """Start recording a call. Return None if the call is not recorded.

        A call is recorded only if it belongs to an attempt, there is a store, and the request is for a supported API.
        """
        target = request.target
        dialect = dialect_of(target.path, request.body) if target.rollout_id and self._store() is not None else None
        return CallRecording(self, request, server, dialect) if dialect is not None else None

    async def store(self, finished: FinishedSpan) -> None:
        """Queue a span for the store, and wait at most `STORE_TIMEOUT` seconds until it is stored.

        The span is dropped if the queue is full.
        """
        store = self._store()
        if store is None:
            return
        if len(self._queue) >= MAX_QUEUED_SPANS:
            self._drops.drop(1, f"{MAX_QUEUED_SPANS} spans are already queued for the store")
            return
        stored = asyncio.get_running_loop().create_future()
        self._queue.append((finished, store, stored))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        _, pending = await asyncio.wait({stored}, timeout=STORE_TIMEOUT)
        if pending:
            logger.warning("The store is unreachable; calls continue, and their spans will be stored later")

    async def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all queued spans are stored, then drop any remaining spans."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=timeout)
            if not self._sending.done():
                self._sending.cancel()
                logger.error("Dropped at least %d spans: the store is still unreachable", len(self._queue) + 1)

    async def _send(self) -> None:
        """Send batches of spans until the queue is empty. Spans queued in the meantime are sent in later batches."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            for store, items in groupby(batch, key=lambda item: item[1]):
                spans = SpanBatch.from_items([finished for finished, _, _ in items], self._drops)
                await SpanExporter(store, self._drops).send(spans)
            for _, _, stored in batch:
                stored.set_result(None)


class CallRecording:
    """Collects the data for one call's span while the call is in flight."""

    def __init__(self, recorder: CallRecorder, request: ProxyRequest, server: ModelServer, dialect: ApiDialect) -> None:
        self._recorder = recorder
        self._target = request.target
        self._name = dialect.span_name
        self._attributes = _attributes(request, server, dialect)
        self._traceparent = request.headers.get(b"traceparent", b"").decode("latin-1") or request.target.traceparent
        self._start_time = time.time()
        self._status = TraceStatus()
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_stored = False

    def set_response(self, status: int, content: bytes) -> None:
        """Record the HTTP status and the content of a response that was not streamed.

        Content that is larger than `MAX_STREAM_BYTES` is left out.
        """
        self._set_status(status, content)
        if len(content) > MAX_STREAM_BYTES:
            self._attributes[semconv.CAPTURE_ERROR] = f"a body of {len(content)} bytes is too large to record"
        else:
            self._attributes[semconv.RESPONSE] = content.decode("utf-8", "replace")

    def start_stream(self, status: int) -> None:
        """Record the start of a streamed response with this HTTP status. Pass each chunk of the stream to `append`."""
        self._chunks, self._size = [], 0
        self._set_status(status, b"")
        self._attributes[semconv.STREAMED] = True

    def append(self, chunk: bytes) -> None:
        """Record a chunk of a streamed response. After the first `MAX_STREAM_BYTES`, further chunks are not kept."""
        if self._size < MAX_STREAM_BYTES:
            self._chunks.append(chunk[: MAX_STREAM_BYTES - self._size])
        self._size += len(chunk)

    def fail(self, error: BaseException | None) -> None:
        """Record that the call failed with `error`, or that the agent cancelled the call if `error` is None."""
        if semconv.STREAMED in self._attributes:
            self._attributes[semconv.INCOMPLETE] = True
        if error is not None:
            self._attributes["error.type"] = type(error).__qualname__
            self._status = TraceStatus(status_code="ERROR", description=str(error) or type(error).__name__)

    async def store(self, prompt_token_ids: list[int] | None = None) -> None:
        """Store the span. Only the first call has an effect.

        The token ids are added to the span only if the response reports the same number of prompt tokens.
        """
        if self._is_stored:
            return
        self._is_stored = True
        try:
            finished = await offload_if_large(self._recorded_size(), self._finish)
            attributes = finished.span.attributes
            if prompt_token_ids and attributes.get(semconv.GEN_AI_USAGE_PROMPT_TOKENS) == len(prompt_token_ids):
                attributes[semconv.PROMPT_TOKEN_IDS] = to_json(prompt_token_ids)
        except Exception:  # an agent's call must never fail because it cannot be recorded
            logger.exception("Could not record a call of attempt %s", self._target.attempt_id)
            return
        await self._recorder.store(finished)

    def _recorded_size(self) -> int:
        return sum(len(str(value)) for value in self._attributes.values()) + self._size

    def _finish(self) -> FinishedSpan:
        finished = FinishedSpan(self._span(), self._target.rollout_id, self._target.attempt_id)
        _ = finished.span  # decodes the call now, because this function may run in a thread
        return finished

    def _set_status(self, status: int, content: bytes) -> None:
        self._attributes["http.response.status_code"] = status
        if status >= 400:
            message = error_message(parse_object(content)) or redact_bytes(content)[:500].decode("utf-8", "replace")
            self._status = TraceStatus(status_code="ERROR", description=f"HTTP {status}: {message}")

    def _span(self) -> Span:
        rollout_id, attempt_id = self._target.rollout_id, self._target.attempt_id
        if self._chunks:
            self._attributes[RAW_EVENTS] = b"".join(self._chunks).decode("utf-8", "replace")
            self._chunks = []
        if self._size > MAX_STREAM_BYTES:
            self._attributes[semconv.CAPTURE_ERROR] = f"only {MAX_STREAM_BYTES} of {self._size} bytes were recorded"
        parent = _TRACEPARENT.fullmatch(self._traceparent)
        return Span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            trace_id=parent["trace"] if parent else trace_of(rollout_id, attempt_id),
            span_id=secrets.token_hex(8),
            parent_id=parent["span"] if parent else None,
            name=self._name,
            status=self._status,
            attributes={**self._attributes, UNDECODED: True},
            start_time=self._start_time,
            end_time=time.time(),
            resource=OtelResource(attributes={"service.name": "agl-proxy"}),
        )


def _attributes(request: ProxyRequest, server: ModelServer, dialect: ApiDialect) -> Json:
    attributes: Json = {
        "url.path": f"/v1/{request.target.path}",
        "server.address": server.upstream.host,
        semconv.ROLLOUT_ID: request.target.rollout_id,
        semconv.ATTEMPT_ID: request.target.attempt_id,
        semconv.REQUEST: request.content.decode("utf-8", "replace"),
    }
    if len(request.content) > MAX_BODY_BYTES:
        attributes.update(cut_request(dialect, request.content))
    if server.upstream.policy_version is not None:
        attributes[semconv.POLICY_VERSION] = server.upstream.policy_version
    retries = request.headers.get(b"x-stainless-retry-count", b"0")
    if retries.isdigit() and len(retries) < 10 and int(retries):
        attributes["http.request.resend_count"] = int(retries)
    return attributes
