"""Tracing: records an agent's calls as spans and exports the spans to the store."""

from .base import (
    Tracer as Tracer,
    clear_active_tracer as clear_active_tracer,
    get_active_tracer as get_active_tracer,
    set_active_tracer as set_active_tracer,
)
from .tracers import (
    AgentOpsTracer as AgentOpsTracer,
    DummyTracer as DummyTracer,
    LightningTracer as LightningTracer,
    OtelTracer as OtelTracer,
)
