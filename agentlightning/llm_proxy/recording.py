"""Calls that pass the proxy, as spans of their attempts in the store.

A call is read and redacted as the tracer does it, so it looks the same whether the agent's process or the proxy saw it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Callable

from .. import semconv
from ..instrumentation.call_record import EVENTS, UNREAD, error_message, read_object
from ..instrumentation.dialects import dialect_of
from ..instrumentation.dialects.base import Json, written
from ..instrumentation.llm_call import LARGEST_STREAM
from ..store.contract import LightningStore
from ..tracer.delivery import Sender
from ..tracer.finished_span import EndedSpan
from ..types import OtelResource, Span, TraceStatus, trace_of
from .auth import Address, Headers
from .model_server import Server

logger = logging.getLogger(__name__)

STORE_PATIENCE = 10.0
"""Seconds an answer is held back for a store that is away; the span is stored when it is back."""
MOST_WAITING = 10_000
"""Spans kept for a store that is away."""
LARGEST_BATCH = 256

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class Recorder:
    """Makes records of calls and brings them to the store."""

    def __init__(self, store: Callable[[], LightningStore | None]) -> None:
        self._store = store
        self._sender = Sender()
        self._waiting: deque[tuple[EndedSpan, LightningStore, asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    def begin(self, address: Address, content: bytes, body: Json, headers: Headers, server: Server) -> Record | None:
        """Start the record of a call; None where it is nobody's, or nobody keeps it."""
        if not address.names_attempt or self._store() is None:
            return None
        dialect = dialect_of(address.path, body)
        if dialect is None:
            return None
        attributes = {**_place(address, headers, server), semconv.REQUEST: content.decode("utf-8", "replace")}
        return Record(self, address, dialect.span_name, attributes, headers)

    async def keep(self, ended: EndedSpan) -> None:
        """Store a span; returns when that is done, or has to wait for the store to come back."""
        store = self._store()
        if store is None:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._sender.drop(1, f"{MOST_WAITING} spans already wait for the store")
            return
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((ended, store, stored))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        _, still_waiting = await asyncio.wait({stored}, timeout=STORE_PATIENCE)
        if still_waiting:
            logger.warning("The store is away; calls go on, and are recorded when it is back")

    async def flush(self, timeout: float) -> None:
        """Wait until every span is stored, or so many seconds have passed."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=timeout)
            if not self._sending.done():
                self._sending.cancel()
                logger.error("Dropped %d spans or more: the store did not come back in time", len(self._waiting) + 1)

    async def _send(self) -> None:
        """Send what waits, all of it at once: while one batch is on its way, the next gathers."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(LARGEST_BATCH, len(self._waiting)))]
            await self._sender.send([(ended, store) for ended, store, _ in batch])
            for _, _, stored in batch:
                stored.set_result(None)


class Record:
    """One call's record, while the call lasts."""

    def __init__(self, recorder: Recorder, address: Address, name: str, attributes: Json, headers: Headers) -> None:
        self._recorder = recorder
        self._address = address
        self._name = name
        self._attributes = attributes
        self._traceparent = headers.get(b"traceparent", b"").decode("latin-1") or address.traceparent
        self._started = time.time()
        self._status = TraceStatus()
        self._chunks: list[bytes] = []
        self._size = 0
        self._told = False

    def answered(self, status: int, content: bytes) -> None:
        """The whole answer is here."""
        self._note_status(status, content)
        self._attributes[semconv.RESPONSE] = content.decode("utf-8", "replace")

    def answering(self, status: int) -> None:
        """The answer has begun as a stream; its bytes will come through `saw`."""
        self._chunks, self._size = [], 0
        self._note_status(status, b"")
        self._attributes[semconv.STREAMED] = True

    def saw(self, chunk: bytes) -> None:
        """Another piece of the stream."""
        if self._size < LARGEST_STREAM:
            self._chunks.append(chunk)
        self._size += len(chunk)

    def broke_off(self, error: BaseException | None = None) -> None:
        """There will be no more, because of an error or because the agent went away."""
        if semconv.STREAMED in self._attributes:
            self._attributes[semconv.INCOMPLETE] = True
        if error is not None:
            self._attributes["error.type"] = type(error).__qualname__
            self._status = TraceStatus(status_code="ERROR", description=str(error) or type(error).__name__)

    async def store(self, prompt_token_ids: list[int] | None = None) -> None:
        """Bring the record to the store, once; with the prompt's ids, where those are not in the answer."""
        if self._told:
            return
        self._told = True
        try:
            ended = self._span()
            self._note_prompt(ended.span, prompt_token_ids)
        except Exception:  # an agent's call never fails because of its record
            logger.exception("A call of attempt %s is not on record", self._address.attempt_id)
            return
        await self._recorder.keep(ended)

    def _note_prompt(self, span: Span, token_ids: list[int] | None) -> None:
        if token_ids and span.attributes.get(semconv.GEN_AI_USAGE_PROMPT_TOKENS) == len(token_ids):
            span.attributes[semconv.PROMPT_TOKEN_IDS] = written(token_ids)

    def _note_status(self, status: int, content: bytes) -> None:
        self._attributes["http.response.status_code"] = status
        if status >= 400:
            said = error_message(read_object(content)) or content[:500].decode("utf-8", "replace")
            self._status = TraceStatus(status_code="ERROR", description=f"HTTP {status}: {said}")

    def _span(self) -> EndedSpan:
        rollout_id, attempt_id = self._address.rollout_id or "", self._address.attempt_id or ""
        if self._chunks:
            self._attributes[EVENTS] = b"".join(self._chunks).decode("utf-8", "replace")
        if self._size > LARGEST_STREAM:
            self._attributes[semconv.CAPTURE_ERROR] = f"only {LARGEST_STREAM} of {self._size} bytes were kept"
        parent = _TRACEPARENT.fullmatch(self._traceparent)
        span = Span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            trace_id=parent["trace"] if parent else trace_of(rollout_id, attempt_id),
            span_id=secrets.token_hex(8),
            parent_id=parent["span"] if parent else None,
            name=self._name,
            status=self._status,
            attributes={**self._attributes, UNREAD: True},
            start_time=self._started,
            end_time=time.time(),
            resource=OtelResource(attributes={"service.name": "agl-proxy"}),
        )
        return EndedSpan(span, rollout_id, attempt_id)


def _place(address: Address, headers: Headers, server: Server) -> Json:
    upstream = server.upstream
    place: Json = {
        "url.path": f"/v1/{address.path}",
        "server.address": upstream.host,
        semconv.ROLLOUT_ID: address.rollout_id,
        semconv.ATTEMPT_ID: address.attempt_id,
    }
    if upstream.policy_version is not None:
        place[semconv.POLICY_VERSION] = upstream.policy_version
    resent = headers.get(b"x-stainless-retry-count", b"0")
    if resent.isdigit() and int(resent):
        place["http.request.resend_count"] = int(resent)
    return place
