"""Calls that pass the proxy, as spans of their attempts in the store.

A call is read and redacted as the tracer does it, so it looks the same whether the agent's process or the proxy saw it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import secrets
import time
from collections.abc import Callable

from .. import semconv
from ..errors import AgentLightningError
from ..instrumentation.call_record import EVENTS, UNREAD, error_message, read_object
from ..instrumentation.dialects import dialect_of
from ..instrumentation.dialects.base import Json, written
from ..instrumentation.llm_call import LARGEST_STREAM
from ..store.contract import LightningStore
from ..tracer.ended import EndedSpan
from ..types import OtelResource, Span, TraceStatus
from .door import Address, Headers
from .server import Server

logger = logging.getLogger(__name__)

STORE_PATIENCE = 10.0
"""Seconds an answer is held back for a store that is away; the span is stored when it is back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
MOST_PENDING = 10_000
"""Spans kept for a store that is away."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class Recorder:
    """Makes records of calls and brings them to the store."""

    def __init__(self, store: Callable[[], LightningStore | None]) -> None:
        self._store = store
        self._pending: set[asyncio.Task[None]] = set()

    def begin(self, address: Address, content: bytes, body: Json, headers: Headers, server: Server) -> Record | None:
        """Start the record of a call; None where it is nobody's, or nobody keeps it."""
        if not address.names_attempt or self._store() is None:
            return None
        dialect = dialect_of(address.path, body)
        if dialect is None:
            return None
        attributes = {**_place(address, headers, server), semconv.REQUEST: content.decode("utf-8", "replace")}
        return Record(self, address, dialect.span_name, attributes, headers)

    async def keep(self, span: Span) -> None:
        """Store a span; returns when that is done, or has to wait for the store to come back."""
        if len(self._pending) >= MOST_PENDING:
            logger.error("Dropped a call's span: %d already wait for the store", MOST_PENDING)
            return
        task = asyncio.create_task(self._deliver(span))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        _, waiting = await asyncio.wait({task}, timeout=STORE_PATIENCE)
        if waiting:
            logger.warning("The store is away; calls go on, and are recorded when it is back")

    async def flush(self, timeout: float) -> None:
        """Wait until every span is stored, or so many seconds have passed."""
        if self._pending:
            _, left = await asyncio.wait(set(self._pending), timeout=timeout)
            for task in left:
                task.cancel()
            if left:
                logger.error("Dropped %d spans: the store did not come back in time", len(left))

    async def _deliver(self, span: Span) -> None:
        pause = FIRST_PAUSE
        while store := self._store():
            try:
                await store.add_span(span)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
            except AgentLightningError as error:
                logger.warning(
                    "A call of attempt %s (rollout %s) is not on record: %s", span.attempt_id, span.rollout_id, error
                )
                return
            except Exception:
                logger.exception("A call of attempt %s (rollout %s) is not on record", span.attempt_id, span.rollout_id)
                return
            else:
                return


class Record:
    """One call's record, while the call lasts."""

    def __init__(self, recorder: Recorder, address: Address, name: str, attributes: Json, headers: Headers) -> None:
        self._recorder = recorder
        self._address = address
        self._name = name
        self._attributes = attributes
        self._traceparent = headers.get(b"traceparent", b"").decode("latin-1")
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
            span = self._span()
        except Exception:  # an agent's call never fails because of its record
            logger.exception("A call of attempt %s is not on record", self._address.attempt_id)
            return
        if prompt_token_ids and span.attributes.get(semconv.GEN_AI_USAGE_PROMPT_TOKENS) == len(prompt_token_ids):
            span.attributes[semconv.PROMPT_TOKEN_IDS] = written(prompt_token_ids)
        await self._recorder.keep(span)

    def _note_status(self, status: int, content: bytes) -> None:
        self._attributes["http.response.status_code"] = status
        if status >= 400:
            said = error_message(read_object(content)) or content[:500].decode("utf-8", "replace")
            self._status = TraceStatus(status_code="ERROR", description=f"HTTP {status}: {said}")

    def _span(self) -> Span:
        rollout_id, attempt_id = self._address.rollout_id or "", self._address.attempt_id or ""
        if self._chunks:
            self._attributes[EVENTS] = b"".join(self._chunks).decode("utf-8", "replace")
        if self._size > LARGEST_STREAM:
            self._attributes[semconv.CAPTURE_ERROR] = f"only {LARGEST_STREAM} of {self._size} bytes were kept"
        parent = _TRACEPARENT.fullmatch(self._traceparent)
        span = Span(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            # Calls of one attempt are one trace, also when the agent says nothing of its own.
            trace_id=parent["trace"] if parent else _trace_of(rollout_id, attempt_id),
            span_id=secrets.token_hex(8),
            parent_id=parent["span"] if parent else None,
            name=self._name,
            status=self._status,
            attributes={**self._attributes, UNREAD: True},
            start_time=self._started,
            end_time=time.time(),
            resource=OtelResource(attributes={"service.name": "agl-proxy"}),
        )
        return EndedSpan(span, rollout_id, attempt_id).span


def _trace_of(rollout_id: str, attempt_id: str) -> str:
    return hashlib.sha256(f"{rollout_id}/{attempt_id}".encode()).hexdigest()[:32]


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
