"""Agent Lightning: make any AI agent better without rewriting it.

Public names are imported when they are first used, so `import agentlightning` does not load any model SDK, web server
or tracing library. `__init__.pyi` lists these names for type checkers and for this module.
"""

from .lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
