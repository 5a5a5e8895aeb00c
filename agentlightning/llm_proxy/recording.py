"""Calls that pass the proxy, as spans of their attempts in the store.

The wire tap's own record is used, so a call looks the same whether the agent's process or the proxy saw it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as OtelSpan
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import semconv
from ..errors import AgentLightningError
from ..instrumentation.dialects.base import Json, written
from ..instrumentation.llm_call import OpenCall, begin
from ..store.contract import LightningStore
from ..types import Span
from .door import Address, Headers
from .server import Server

logger = logging.getLogger(__name__)

STORE_PATIENCE = 10.0
"""Seconds an answer is held back for a store that is away; the span is stored when it is back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
MOST_PENDING = 10_000
"""Spans kept for a store that is away."""

_propagator = TraceContextTextMapPropagator()


class Recorder:
    """Makes records of calls and brings them to the store."""

    def __init__(self, store: Callable[[], LightningStore | None]) -> None:
        self._store = store
        limits = SpanLimits(max_attributes=SpanLimits.UNSET, max_span_attributes=SpanLimits.UNSET)
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "agl-proxy"}),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        self._tracer = provider.get_tracer("agentlightning.llm_proxy")
        self._pending: set[asyncio.Task[None]] = set()

    def begin(self, address: Address, body: bytes, headers: Headers, server: Server) -> Record | None:
        """Start the record of a call; None where it is nobody's, or nobody keeps it."""
        if not address.names_attempt or self._store() is None:
            return None
        tracer = _Remembering(self._tracer, _context(headers))
        call = begin(tracer, f"/v1/{address.path}", body, _place(address, headers, server))
        return Record(self, address, call, tracer.span) if call and tracer.span else None

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

    def __init__(self, recorder: Recorder, address: Address, call: OpenCall, span: OtelSpan) -> None:
        self.call = call
        self._recorder = recorder
        self._address = address
        self._span = span

    async def store(self, prompt_token_ids: list[int] | None = None) -> None:
        """Bring the record, which has ended, to the store; with the prompt's ids, which are not in the answer."""
        rollout_id, attempt_id = self._address.rollout_id, self._address.attempt_id
        assert rollout_id is not None
        assert attempt_id is not None
        span = Span.from_opentelemetry(self._span, rollout_id, attempt_id)
        if prompt_token_ids and span.attributes.get(semconv.GEN_AI_USAGE_PROMPT_TOKENS) == len(prompt_token_ids):
            span.attributes[semconv.PROMPT_TOKEN_IDS] = written(prompt_token_ids)
        if span.parent_id is None:
            # Calls of one attempt are one trace, also when the agent says nothing of its own.
            span.trace_id = hashlib.sha256(f"{rollout_id}/{attempt_id}".encode()).hexdigest()[:32]
            span.context = None
        await self._recorder.keep(span)


class _Remembering(trace.Tracer):
    """A tracer for one span, which it remembers."""

    def __init__(self, tracer: trace.Tracer, context: Context) -> None:
        self._tracer = tracer
        self._context = context
        self.span: OtelSpan | None = None

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> trace.Span:  # pyright: ignore[reportIncompatibleMethodOverride]
        span = self._tracer.start_span(name, self._context, *args, **kwargs)
        self.span = span if isinstance(span, OtelSpan) else None
        return span

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the record of a call is nobody's current span")


def _context(headers: Headers) -> Context:
    carrier = {
        name: headers[name.encode()].decode("latin-1")
        for name in ("traceparent", "tracestate")
        if name.encode() in headers
    }
    return _propagator.extract(carrier, Context(), default_getter)


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
