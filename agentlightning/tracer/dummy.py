"""DummyTracer: records only what user code says."""

from __future__ import annotations

from .base import Tracer


class DummyTracer(Tracer):
    """Records rewards and whatever else the emitters are told, and nothing of the calls an agent makes.

    Leaves OpenTelemetry alone and patches nothing; works without a store.
    """
