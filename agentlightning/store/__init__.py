"""Where everything lives: the store's contract, its implementation, and the ways to reach it."""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
