"""Execution strategies: run algorithm and runners in threads of one process, or in processes on several machines."""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
