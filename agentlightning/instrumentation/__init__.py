"""Instrumentation of libraries: patches that record an agent's calls while at least one tracer uses them.

Applying the patches is not enough to record a call: the current OpenTelemetry context must also contain a tracer's
scope (see `context.py`).
"""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
