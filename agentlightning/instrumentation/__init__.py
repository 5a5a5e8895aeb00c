"""Instrumentation of libraries: patches that record an agent's calls while it is traced, and are undone afterwards.

The OpenTelemetry context, not the `Instrumentation`, determines whether a call is recorded (`context.py`). Outside of a
trace context, the patched functions only call the originals.
"""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
