"""`@algo`: use a function as an algorithm. The names of its parameters determine the arguments that it receives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from ..types import Dataset
from .base import Algorithm

P = ParamSpec("P")
R = TypeVar("R")
Tasks = Dataset[Any] | None

ARGUMENTS: Final[dict[str, Callable[[Algorithm, Tasks, Tasks], Any]]] = {
    "store": lambda algorithm, train, val: algorithm.get_store(),
    "adapter": lambda algorithm, train, val: algorithm.get_adapter(),
    "llm_proxy": lambda algorithm, train, val: algorithm.get_llm_proxy(),
    "initial_resources": lambda algorithm, train, val: algorithm.get_initial_resources(),
    "train_dataset": lambda algorithm, train, val: train,
    "val_dataset": lambda algorithm, train, val: val,
    "journal": lambda algorithm, train, val: algorithm.get_journal(),
    "log_metrics": lambda algorithm, train, val: algorithm.log_metrics,
}
"""Maps each supported parameter name to a function that returns the argument for it."""


class FunctionAlgorithm(Algorithm, Generic[P, R]):
    """An algorithm that wraps a function. Calling the algorithm calls the function itself."""

    __name__: str

    def __init__(self, function: Callable[P, R]) -> None:
        self._parameters = _supported_parameters(function)
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<algorithm {self.__name__}>"

    def __reduce__(self) -> Any:
        return FunctionAlgorithm, (self._function,)

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Call the function with the arguments that match its parameter names."""
        arguments = {name: ARGUMENTS[name](self, train_dataset, val_dataset) for name in self._parameters}
        return cast("Callable[..., Any]", self._function)(**arguments)

    @property
    def is_async(self) -> bool:
        """True if the function is a coroutine function."""
        return inspect.iscoroutinefunction(self._function)


def algo(function: Callable[P, R], /) -> FunctionAlgorithm[P, R]:
    """Turn a sync or async function into an algorithm.

    Supported parameter names: store, adapter, llm_proxy, initial_resources, train_dataset, val_dataset, journal,
    log_metrics. All other parameters must have a default value.
    """
    if isinstance(function, type) or not callable(function):
        raise TypeError("only a function can be decorated with @algo; derive a class from agl.Algorithm instead")
    return FunctionAlgorithm(function)


def as_algorithm(value: Any) -> Algorithm:
    """Return `value` unchanged if it is an algorithm. If it is a function, wrap it as `@algo` does."""
    if isinstance(value, Algorithm):
        return value
    if callable(value) and not isinstance(value, type):
        return FunctionAlgorithm(cast("Callable[..., Any]", value))
    raise TypeError(f"an algorithm must be an agl.Algorithm or a function, not {value!r}")


def _supported_parameters(function: Callable[..., Any]) -> list[str]:
    supported: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        if parameter.name in ARGUMENTS and parameter.kind is not Parameter.POSITIONAL_ONLY:
            supported.append(parameter.name)
        elif parameter.default is Parameter.empty:
            name = getattr(function, "__name__", repr(function))
            raise TypeError(
                f"algorithm {name} has an unknown parameter {parameter.name!r}: use {', '.join(ARGUMENTS)}, "
                "or give the parameter a default value"
            )
    return supported
