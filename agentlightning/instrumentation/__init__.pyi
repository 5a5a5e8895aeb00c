"""Instrumentation of libraries: patches that record an agent's calls while at least one tracer uses them.

Applying the patches is not enough to record a call: the current OpenTelemetry context must also contain a tracer's
scope (see `context.py`).
"""

from .agentops import AGENTOPS as AGENTOPS
from .context import CONTEXT_IN_THREADS as CONTEXT_IN_THREADS
from .frameworks import OPENINFERENCE as OPENINFERENCE, PYDANTIC_AI as PYDANTIC_AI
from .patches import Instrumentation as Instrumentation
from .wire_tap import WIRE_TAP as WIRE_TAP
