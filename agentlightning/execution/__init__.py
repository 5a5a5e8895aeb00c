"""Execution strategies run the algorithm and the runners in threads of one process, or in separate processes."""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
