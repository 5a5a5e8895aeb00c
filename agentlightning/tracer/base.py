"""Tracer: records what an agent does as spans and sends the spans to the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace

from ..types import Attempt, AttemptRef, AttemptStatus, Span, SpanCoreFields, TraceStatus
from .pipeline import Pipeline
from .scope import ManualSpan, Scope, current_scope
from .spans import AttemptReport

if TYPE_CHECKING:
    from ..instrumentation import Instrumentation
    from ..store.contract import LightningStore

logger = logging.getLogger("agentlightning.tracer")


class Tracer:
    """Records spans within its trace contexts and sends them to the store.

    Several workers (usually runners) in one process may share a tracer. The first call to `init_worker` sets it up, and
    the last call to `teardown_worker` tears it down. Subclasses override `instrumentations` and `otel_tracer` to select
    what is recorded.
    """

    def __init__(self) -> None:
        self._pipeline = Pipeline()
        self._store: LightningStore | None = None
        self._workers = 0
        self._applied: list[Instrumentation] = []
        # Protects `_workers` and `_applied`, because several runner threads may start and stop concurrently.
        self._lock = threading.RLock()

    # For subclasses

    def instrumentations(self) -> list[Instrumentation]:
        """Return the instrumentation to apply while at least one worker uses the tracer."""
        return []

    def otel_tracer(self) -> trace.Tracer | None:
        """Return the OpenTelemetry tracer that creates spans, or None to record only spans that user code creates."""
        return None

    def has_other_processors(self) -> bool:
        """Return True if the tracer provider has, or may have, span processors from outside this package."""
        return False

    def on_exit(self, scope: Scope) -> None:
        """End spans in `scope` that would remain open. Called when its trace context ends. By default, does nothing."""

    # Workers

    def init_worker(self, worker_id: int | str = 0, store: LightningStore | None = None) -> None:
        """Register a worker. If it is the first one, apply the instrumentation.

        `store` receives the spans from trace contexts without a store of their own. `worker_id` appears only in logs.
        """
        logger.info("[Worker %s] Setting up tracer...", worker_id)
        with self._lock:
            self._workers += 1
            self._store = store or self._store
            if self._workers == 1:
                self._set_up()
        logger.info("[Worker %s] Instrumentation applied.", worker_id)

    def teardown_worker(self) -> None:
        """Unregister a worker. If it is the last one, undo the instrumentation and send or save the remaining spans."""
        with self._lock:
            if not self._workers:
                return
            self._workers -= 1
            if not self._workers:
                self._take_down()

    @contextmanager
    def lifespan(self, store: LightningStore | None = None) -> Generator[Tracer]:
        """Call `init_worker` before the block and `teardown_worker` after it."""
        self.init_worker(store=store)
        try:
            yield self
        finally:
            self.teardown_worker()

    def _set_up(self) -> None:
        self._pipeline.start(self._store)
        try:
            for instrumentation in self.instrumentations():
                instrumentation.apply()
                self._applied.append(instrumentation)
        except BaseException:
            self._workers = 0
            self._take_down()
            raise

    def _take_down(self) -> None:
        while self._applied:
            self._applied.pop().undo()
        self._pipeline.stop()
        self._store = None

    # Trace contexts

    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        flush: bool = True,
    ) -> AsyncGenerator[Tracer]:
        """Record the spans created within the block as part of an attempt.

        If `name` is given, also record the block itself as a span. After the block, wait until every finished span has
        been stored or dropped, unless `flush` is False. If there is no store, or if `rollout_id` or `attempt_id` is
        missing, the spans are not sent but only kept for `get_last_trace`.
        """
        scope = Scope(rollout_id, attempt_id, store or self._store, self._pipeline)
        async with AsyncExitStack() as cleanup:
            if not self.is_set_up:
                cleanup.enter_context(self.lifespan())
            if flush:
                cleanup.push_async_callback(self.flush, rollout_id, attempt_id)
            cleanup.enter_context(self._activate(scope))
            if name:
                cleanup.enter_context(self.operation_context(name))
            cleanup.callback(self.on_exit, scope)
            yield self

    @contextmanager
    def _activate(self, scope: Scope) -> Generator[None]:
        otel_tracer = self.otel_tracer()
        scope.accepts_opentelemetry = otel_tracer is not None
        if self._applied:
            scope.call_tracer = otel_tracer
            scope.eager_decode = self.has_other_processors()
        previous = _active_tracer.get()
        _active_tracer.set(self)
        _last_scope.set(scope)
        _thread_local.last_scope = scope
        token = context.attach(scope.to_context())
        try:
            for instrumentation in self._applied:
                instrumentation.refresh()
            yield
        finally:
            context.detach(token)
            _active_tracer.set(previous)

    async def flush(self, rollout_id: str | None = None, attempt_id: str | None = None) -> None:
        """Wait until the finished spans of all attempts have been stored or dropped. The ids are ignored."""
        await self._pipeline.flush()

    async def report(
        self,
        store: LightningStore,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        metadata: dict[str, Any] | None = None,
    ) -> Attempt:
        """Send the final status of an attempt, after all spans queued so far. Return the updated attempt.

        While the store is unreachable, spans and reports are buffered on disk, and this method waits. It raises the
        store's exceptions, and StoreUnavailable if the tracer is stopped before the store responds.
        """
        return await self._pipeline.report(store, AttemptReport(rollout_id, attempt_id, status, metadata or {}))

    def subscribe_abandoned(self, callback: Callable[[AttemptRef], None]) -> AbstractContextManager[None]:
        """Call `callback` with each attempt that had already ended when the store received spans from it.

        The subscription ends when the returned context manager exits. The callback runs in the export thread.
        """
        return self._pipeline.subscribe_abandoned(callback)

    @property
    def dropped(self) -> int:
        """Number of spans that were lost, for example because the store rejected them or the queue was full."""
        return self._pipeline.drops.count

    def get_last_trace(self) -> list[Span]:
        """Return the finished spans from the last trace context that the current task entered.

        The spans are in the order in which they ended. If the task has not entered any trace context of this tracer,
        use the last one that the current thread entered.
        """
        of_task, of_thread = _last_scope.get(), getattr(_thread_local, "last_scope", None)
        scope = next((scope for scope in (of_task, of_thread) if scope and scope.pipeline is self._pipeline), None)
        return [finished.span for finished in list(scope.finished)] if scope else []

    # Spans created by user code

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span with zero duration and return its fields.

        `timestamp` is the span's Unix time in seconds. It defaults to the current time.
        """
        span = self.operation_context(name, attributes, timestamp)
        if status:
            span.set_status(status)
        return span.end(span.core.start_time)

    def operation_context(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> ManualSpan:
        """Return a context manager that records a block as a span.

        If the tracer uses OpenTelemetry, spans that start inside the block become children of that span. `start_time`
        and `end_time` (Unix times in seconds) replace the actual start and end of the block.
        """
        return ManualSpan(name, attributes, self.otel_tracer(), current_scope(), start_time, end_time)

    @property
    def is_set_up(self) -> bool:
        """True if at least one worker uses the tracer."""
        return bool(self._workers)

    def __getstate__(self) -> dict[str, Any]:
        # Omit the state of this process. A tracer that is unpickled in another process starts without workers.
        excluded = {"_pipeline", "_store", "_workers", "_applied", "_lock"}
        return {key: value for key, value in self.__dict__.items() if key not in excluded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Tracer.__init__(self)
        self.__dict__.update(state)


# A context variable, so that each concurrent rollout in a process has its own active tracer.
_active_tracer: ContextVar[Tracer | None] = ContextVar("agentlightning_active_tracer", default=None)

# Scopes of the last trace context that the current task and the current thread have entered, for `get_last_trace`.
_last_scope: ContextVar[Scope | None] = ContextVar("agentlightning_last_scope", default=None)
_thread_local = threading.local()


def get_active_tracer() -> Tracer | None:
    """Return the tracer of the current trace context or the one set with `set_active_tracer`. None if there is none."""
    return _active_tracer.get()


def set_active_tracer(tracer: Tracer) -> None:
    """Set the tracer that emitters, such as `emit_reward`, use in this task or thread."""
    _active_tracer.set(tracer)


def clear_active_tracer() -> None:
    """Remove the active tracer of this task or thread."""
    _active_tracer.set(None)
