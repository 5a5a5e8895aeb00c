"""Instrumentation of libraries: patches that record an agent's calls while it is traced, and are undone afterwards.

There is one file for each patched library. An `Instrumentation` does not decide whether a call is recorded: the
OpenTelemetry context does (`context.py`). Outside of a trace context the patched functions only call the originals.
"""

from .agentops import AGENTOPS as AGENTOPS
from .openinference import OPENINFERENCE as OPENINFERENCE
from .patches import Instrumentation as Instrumentation
from .pydantic_ai import PYDANTIC_AI as PYDANTIC_AI
from .taps.wire_tap import WIRE_TAP as WIRE_TAP
from .threads import CONTEXT_IN_THREADS as CONTEXT_IN_THREADS
