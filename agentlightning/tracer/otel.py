"""OtelTracer: what the agent's libraries say through OpenTelemetry, and nothing patched."""

from __future__ import annotations

from opentelemetry import trace

from .base import Tracer
from .provider import has_guests, otel_tracer


class OtelTracer(Tracer):
    """Records every OpenTelemetry span that begins within its trace contexts. Patches nothing."""

    def otel_tracer(self) -> trace.Tracer:
        """The process's own, be it the user's or ours."""
        return otel_tracer()

    def shares_spans(self) -> bool:
        """Whether the user has processors on the provider as well."""
        return has_guests()
