"""Tracing: records an agent's calls as spans and exports the spans to the store."""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
