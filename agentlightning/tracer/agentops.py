"""AgentOpsTracer: the AgentOps SDK as pure instrumentation, on our provider."""

from __future__ import annotations

from .lightning import LightningTracer


class AgentOpsTracer(LightningTracer):
    """As `LightningTracer`, and what the AgentOps SDK instruments on top of it."""
