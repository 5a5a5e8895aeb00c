"""Whose span: the rollout and attempt that what happens here belongs to.

A scope travels in the OpenTelemetry context, so tasks, copied contexts and instrumented threads carry it along, and
rollouts that run side by side never mix. Its ids are in the baggage as well, for carriers that leave the process.
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
from .finished_span import EndedSpan

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from ..store.contract import LightningStore
    from ..types import Span
    from .pipeline import Pipeline


@dataclass(eq=False)
class Scope:
    """One trace context: where its spans go, and those it has seen so far."""

    rollout_id: str | None = None
    attempt_id: str | None = None
    store: LightningStore | None = None
    pipeline: Pipeline | None = None
    """Carries spans to the store; None keeps them here."""
    takes_opentelemetry: bool = False
    """Whether spans that others make are wanted too."""
    instrument_with: OtelTracer | None = None
    """Makes the spans of instrumented calls; None where those are not wanted."""
    read_at_once: bool = False
    """Whether others listen to those spans too, so that all there is to say must be on them when they end."""
    ended: list[EndedSpan] = field(default_factory=list[EndedSpan])

    @cached_property
    def trace_id(self) -> int:
        """All spans of the scope share it, where the tracer provider is ours."""
        if self.rollout_id and self.attempt_id:
            return int(trace_of(self.rollout_id, self.attempt_id), 16)
        return secrets.randbits(128) or 1

    @cached_property
    def stamp(self) -> dict[str, str]:
        """The ids as span attributes."""
        ids = {ROLLOUT_ID: self.rollout_id, ATTEMPT_ID: self.attempt_id}
        return {key: value for key, value in ids.items() if value is not None}

    def add(self, span: ReadableSpan | Span) -> None:
        """Take a span that has ended. Called in the agent's thread: never waits, never fails."""
        ended = EndedSpan(span, self.rollout_id or "", self.attempt_id or "")
        self.ended.append(ended)
        if self.pipeline and self.store and self.rollout_id and self.attempt_id:
            self.pipeline.put(ended, self.store)

    def entered(self) -> Context:
        """The current context with this scope in it."""
        here = context.set_value(SCOPE, self)
        for key, value in self.stamp.items():
            here = baggage.set_baggage(key, value, here)
        return here


def current_scope(where: Context | None = None) -> Scope | None:
    """The scope that the context (None: the current one) belongs to."""
    scope: Any = context.get_value(SCOPE, where)
    return scope
