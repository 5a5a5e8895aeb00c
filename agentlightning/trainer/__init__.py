"""The trainer, which runs an algorithm and an agent's runners with a single call."""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
