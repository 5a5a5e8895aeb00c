"""`@algo`: a function as an algorithm; its parameter names say what it is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Generic, ParamSpec, TypeVar, cast

from ..types import Dataset
from .base import Algorithm

P = ParamSpec("P")
R = TypeVar("R")

GIVEN = (
    "store",
    "adapter",
    "llm_proxy",
    "initial_resources",
    "train_dataset",
    "val_dataset",
    "journal",
    "log_metrics",
)
"""Names of parameters that are given something."""


class FunctionAlgorithm(Algorithm, Generic[P, R]):
    """A function that is an algorithm, and still callable as it was."""

    __name__: str

    def __init__(self, function: Callable[P, R]) -> None:
        self._asked = _asked_by(function)
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<algorithm {self.__name__}>"

    def __reduce__(self) -> Any:
        return FunctionAlgorithm, (self._function,)

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Call the function with what it asks for."""
        there: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
            "journal": self.get_journal,
            "log_metrics": lambda: self.log_metrics,
        }
        return cast("Callable[..., Any]", self._function)(**{name: there[name]() for name in self._asked})

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self._function)


def algo(function: Callable[P, R], /) -> FunctionAlgorithm[P, R]:
    """Make an algorithm of a function, async or not.

    It is given what its parameters name: store, adapter, llm_proxy, initial_resources, train_dataset, val_dataset,
    journal, log_metrics. Other parameters need a default.
    """
    if isinstance(function, type) or not callable(function):
        raise TypeError("only a function can be decorated with @algo; derive a class from agl.Algorithm instead")
    return FunctionAlgorithm(function)


def as_algorithm(thing: Any) -> Algorithm:
    """`thing` itself if it is an algorithm; a function becomes one as with `@algo`."""
    if isinstance(thing, Algorithm):
        return thing
    if callable(thing) and not isinstance(thing, type):
        return FunctionAlgorithm(cast("Callable[..., Any]", thing))
    raise TypeError(f"an algorithm is an agl.Algorithm or a function, not {thing!r}")


def _asked_by(function: Callable[..., Any]) -> list[str]:
    asked: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        if parameter.name in GIVEN and parameter.kind is not Parameter.POSITIONAL_ONLY:
            asked.append(parameter.name)
        elif parameter.default is Parameter.empty:
            name = getattr(function, "__name__", repr(function))
            raise TypeError(
                f"algorithm {name} asks for {parameter.name!r}, which nobody gives it: it may ask for "
                f"{', '.join(GIVEN)}; give other parameters a default"
            )
    return asked
