"""Instrumentation of libraries: patches that record an agent's calls while it is traced, and are undone afterwards.

The OpenTelemetry context, not the `Instrumentation`, determines whether a call is recorded (`context.py`). Outside of a
trace context, the patched functions only call the originals.
"""

from .agentops import AGENTOPS as AGENTOPS
from .context import CONTEXT_IN_THREADS as CONTEXT_IN_THREADS
from .frameworks import OPENINFERENCE as OPENINFERENCE, PYDANTIC_AI as PYDANTIC_AI
from .patches import Instrumentation as Instrumentation
from .wire_tap import WIRE_TAP as WIRE_TAP
