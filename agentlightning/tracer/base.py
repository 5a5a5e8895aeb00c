"""Tracer: what a runner asks of whatever records an agent's run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace

from ..types import Attempt, AttemptRef, AttemptStatus, Span, SpanCoreFields, TraceStatus
from .active import clear_active_tracer, get_active_tracer, set_active_tracer
from .manual_span import Recording
from .pipeline import Pipeline
from .scope import Scope, current_scope

if TYPE_CHECKING:
    from ..instrumentation import Instrumentation
    from ..store.contract import LightningStore

logger = logging.getLogger("agentlightning.tracer")

_last: ContextVar[Scope | None] = ContextVar("agentlightning_last_scope", default=None)
_last_of_thread = threading.local()
"""The trace context that a task or thread has entered last, for `get_last_trace`."""


class Tracer:
    """Records what happens within its trace contexts, and brings it to the store.

    Several workers in one process may share a tracer: it is set up with the first `init_worker` and taken down with
    the last `teardown_worker`. Subclasses say what else is watched, with `instrumentations` and `otel_tracer`.
    """

    def __init__(self) -> None:
        self._pipeline = Pipeline()
        self._store: LightningStore | None = None
        self._workers = 0
        self._applied: list[Instrumentation] = []
        # Protects the count of workers: runner threads come and go at the same time.
        self._lock = threading.RLock()

    # What subclasses say

    def instrumentations(self) -> list[Instrumentation]:
        """What to patch while a worker is set up."""
        return []

    def otel_tracer(self) -> trace.Tracer | None:
        """What makes spans; None: only what user code says is recorded, and OpenTelemetry is left alone."""
        return None

    def shares_spans(self) -> bool:
        """Whether others listen to the same OpenTelemetry provider."""
        return False

    def entering(self, scope: Scope) -> None:
        """Called when a scope has been entered, before anything happens in it."""

    def leaving(self, scope: Scope) -> None:
        """Called before a scope is left: whatever is still open in it should end now."""

    # A worker's life

    def init_worker(self, worker_id: int | str = 0, store: LightningStore | None = None) -> None:
        """Apply the instrumentation and be ready to send spans; `store` is where, unless a trace context says."""
        logger.info("[Worker %s] Setting up tracer...", worker_id)
        with self._lock:
            self._workers += 1
            self._store = store or self._store
            if self._workers == 1:
                self._set_up()
        logger.info("[Worker %s] Instrumentation applied.", worker_id)

    def teardown_worker(self) -> None:
        """Send what is left, undo the instrumentation, stop the thread. Does nothing when nothing is set up."""
        with self._lock:
            if not self._workers:
                return
            self._workers -= 1
            if not self._workers:
                self._take_down()

    @contextmanager
    def lifespan(self, store: LightningStore | None = None) -> Generator[Tracer]:
        """`init_worker` and `teardown_worker` around a block."""
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

    # One run

    def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        flush: bool = True,
    ) -> TraceContext:
        """What happens within it is recorded, as belonging to this attempt; `name` gives it a span of its own.

        An async context manager. On leaving, every span that has ended is in the store; with `flush=False`, on its way
        there. Without a store or ids, spans are only kept for `get_last_trace`.
        """
        scope = Scope(rollout_id, attempt_id, store or self._store, self._pipeline)
        return TraceContext(self, scope, name, flush=flush)

    async def flush(self, rollout_id: str | None = None, attempt_id: str | None = None) -> None:
        """Wait until every span that has ended, of this attempt and all others, is stored or refused for good."""
        await self._pipeline.flush()

    async def report(
        self,
        store: LightningStore,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        metadata: dict[str, Any] | None = None,
    ) -> Attempt:
        """Say how an attempt ended; the store hears it after every span that has ended before. Its answer.

        While the store is away, spans and report wait on disk. Raises what the store raises.
        """
        return await self._pipeline.report(store, rollout_id, attempt_id, status, metadata or {})

    def telling(self, listener: Callable[[AttemptRef], None]) -> AbstractContextManager[None]:
        """Within it, `listener` hears of attempts that the store has given up, as its answers to their spans say so.

        It is called in another thread.
        """
        return self._pipeline.telling(listener)

    @property
    def dropped(self) -> int:
        """Spans lost since the tracer was made: refused by the store, or too many while it was away."""
        return self._pipeline.dropped

    def get_last_trace(self) -> list[Span]:
        """Spans of the trace context that this task or thread is in, or was in last, in the order they ended."""
        of_task, of_thread = _last.get(), getattr(_last_of_thread, "scope", None)
        scope = next((scope for scope in (of_task, of_thread) if scope and scope.pipeline is self._pipeline), None)
        return [ended.span for ended in list(scope.ended)] if scope else []

    # What user code says

    def create_span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span of no length."""
        recording = self._record(name, attributes, timestamp)
        if status:
            recording.set_status(status)
        return recording.end(recording.span.start_time)

    def operation_context(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Recording:
        """A span around a block; spans that begin within it are its children."""
        return self._record(name, attributes, start_time, end_time)

    def _record(
        self,
        name: str,
        attributes: Mapping[str, Any] | None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Recording:
        return Recording(
            name,
            attributes,
            tracer=self.otel_tracer(),
            scope=current_scope(),
            start_time=start_time,
            end_time=end_time,
        )

    @property
    def is_set_up(self) -> bool:
        """Whether a worker is using it."""
        return bool(self._workers)

    @property
    def is_instrumented(self) -> bool:
        """Whether it has patched anything."""
        return bool(self._applied)

    def __getstate__(self) -> dict[str, Any]:
        # A tracer reaches a fresh process as it was before any worker was set up.
        mine = {"_pipeline", "_store", "_workers", "_applied", "_lock"}
        return {key: value for key, value in self.__dict__.items() if key not in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Tracer.__init__(self)
        self.__dict__.update(state)


class TraceContext:
    """One run within a tracer: puts its scope in the context on entry, and sees its spans stored on exit."""

    def __init__(self, tracer: Tracer, scope: Scope, name: str | None, *, flush: bool) -> None:
        self._flush = flush
        self._tracer = tracer
        self._scope = scope
        self._name = name
        self._own_lifespan = ExitStack()
        self._root: AbstractContextManager[Recording] | None = None
        self._token: Token[context.Context] | None = None
        self._before: Tracer | None = None

    async def __aenter__(self) -> Tracer:
        tracer, scope = self._tracer, self._scope
        if not tracer.is_set_up:
            self._own_lifespan.enter_context(tracer.lifespan())
        otel_tracer = tracer.otel_tracer()
        scope.takes_opentelemetry = otel_tracer is not None
        if tracer.is_instrumented:
            scope.instrument_with = otel_tracer
            scope.read_at_once = self._tracer.shares_spans()
        self._before = get_active_tracer()
        set_active_tracer(tracer)
        _last.set(scope)
        _last_of_thread.scope = scope
        self._token = context.attach(scope.entered())
        tracer.entering(scope)
        if self._name:
            self._root = tracer.operation_context(self._name)
            self._root.__enter__()
        return tracer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._own_lifespan:
            try:
                self._tracer.leaving(self._scope)
                if self._root:
                    self._root.__exit__(kind, error, where)
            finally:
                self._leave()
            if self._flush:
                await self._tracer.flush(self._scope.rollout_id, self._scope.attempt_id)

    def _leave(self) -> None:
        if self._token:
            context.detach(self._token)
        if self._before:
            set_active_tracer(self._before)
        else:
            clear_active_tracer()
