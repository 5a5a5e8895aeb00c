"""Scope: the rollout and attempt that spans belong to.

A scope travels in the OpenTelemetry context, so tasks, copied contexts and instrumented threads inherit it, and
concurrent rollouts never mix. Its ids are also in the baggage, for propagators that leave the process.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context
from opentelemetry.trace import Tracer as OtelTracer

from ..instrumentation.context import SCOPE
from ..semconv import ATTEMPT_ID, ROLLOUT_ID
from ..types import trace_of
from .finished_span import FinishedSpan

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from ..store.contract import LightningStore
    from ..types import Span
    from .pipeline import Pipeline


@dataclass(eq=False)
class Scope:
    """One trace context: the destination of its spans, and the spans finished so far."""

    rollout_id: str | None = None
    attempt_id: str | None = None
    store: LightningStore | None = None
    pipeline: Pipeline | None = None
    """Exports spans to the store; None keeps them here only."""
    accepts_opentelemetry: bool = False
    """True if spans of other libraries are recorded."""
    call_tracer: OtelTracer | None = None
    """Creates the spans of instrumented calls; None if those are not recorded."""
    eager_decode: bool = False
    """True if calls are decoded before their spans end, because other span processors read them too."""
    finished: list[FinishedSpan] = field(default_factory=list[FinishedSpan])

    @cached_property
    def trace_id(self) -> int:
        """The trace id of all spans of the scope, if the tracer provider is ours."""
        if self.rollout_id and self.attempt_id:
            return int(trace_of(self.rollout_id, self.attempt_id), 16)
        return secrets.randbits(128) or 1

    @cached_property
    def id_attributes(self) -> dict[str, str]:
        """The ids as span attributes."""
        ids = {ROLLOUT_ID: self.rollout_id, ATTEMPT_ID: self.attempt_id}
        return {key: value for key, value in ids.items() if value is not None}

    def add(self, span: ReadableSpan | Span) -> None:
        """Record a finished span. Called in the agent's thread: never fails, and waits only while the queue is full."""
        finished = FinishedSpan(span, self.rollout_id or "", self.attempt_id or "")
        self.finished.append(finished)
        if self.pipeline and self.store and self.rollout_id and self.attempt_id:
            self.pipeline.put(finished, self.store)

    def to_context(self) -> Context:
        """Return the current context with this scope and its ids in it."""
        result = context.set_value(SCOPE, self)
        for key, value in self.id_attributes.items():
            result = baggage.set_baggage(key, value, result)
        return result


def current_scope(of: Context | None = None) -> Scope | None:
    """Return the scope of a context; by default of the current one."""
    scope: Any = context.get_value(SCOPE, of)
    return scope
