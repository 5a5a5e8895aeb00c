"""Agents written as functions: `@rollout`, `@prompt_rollout` and `@llm_rollout`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ..types import LLM, AttemptedRollout, NamedResources, PromptTemplate, Resource, RolloutMode
from .base import LitAgent
from .parameters import ParameterResolver, name_of, parameter_specs

P = ParamSpec("P")
R = TypeVar("R")


class FunctionAgent(LitAgent[Any], Generic[P, R]):
    """An agent that wraps a function. The wrapper can still be called like the function itself."""

    __name__: str
    __qualname__: str

    def __init__(
        self, function: Callable[P, R], *, strip_proxy: bool = True, second: type[Resource] | None = None
    ) -> None:
        specs = parameter_specs(function, second=second)
        functools.update_wrapper(self, function)
        self.__name__ = name_of(function)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self._function = function
        self._resolver = ParameterResolver(self.__name__, specs, strip_proxy=strip_proxy)
        self._recreate = functools.partial(FunctionAgent, strip_proxy=strip_proxy, second=second)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<agent {self.__name__}>"

    def rollout(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Call the function with the task and the arguments that its parameters select."""
        args, kwargs = self._resolver.arguments(task, resources, rollout)
        return cast("Callable[..., Any]", self._function)(*args, **kwargs)

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Async form of `rollout`."""
        return await self.rollout(task, resources, rollout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[Any, NamedResources, AttemptedRollout], Any]:
        """Return the same method for every mode."""
        return self.rollout_async if _is_async(self._function) else self.rollout

    def __reduce__(self) -> Any:
        # Pickle by name if another process can import it: the name refers to the agent, not to the bare function.
        if self.__module__ != "__main__" and _lookup(self.__module__, self.__qualname__) is self:
            return self.__qualname__
        return self._recreate, (self._function,)


@overload
def rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """Turn a function into an agent. The function's parameter names select its arguments.

    The first parameter is the task. `prompt_template` and `llm` get the resource of that name or type, `resources` gets
    all resources, `rollout` gets the rollout with its attempt, and any other parameter gets the resource of its name.
    A `ProxyLLM` is passed as a plain `LLM` whose URL identifies the attempt, unless `strip_proxy` is False.
    """
    return _decorate(function, strip_proxy=strip_proxy)


@overload
def prompt_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def prompt_rollout() -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def prompt_rollout(function: Any = None, /) -> Any:
    """Turn a function into an agent whose second parameter, whatever its name, is a prompt template."""
    return _decorate(function, second=PromptTemplate)


@overload
def llm_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def llm_rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """Turn a function into an agent whose second parameter, whatever its name, is an LLM."""
    return _decorate(function, strip_proxy=strip_proxy, second=LLM)


def as_agent(agent: LitAgent[Any] | Callable[..., Any]) -> LitAgent[Any]:
    """Return an agent unchanged; wrap a function as `@rollout` does."""
    if isinstance(agent, LitAgent):
        return cast("LitAgent[Any]", agent)
    if isinstance(agent, type):
        raise TypeError(f"{agent.__name__} is a class; pass an instance: {agent.__name__}(…)")
    if callable(agent):
        return FunctionAgent(agent)
    raise TypeError(f"an agent must be a function or a LitAgent, not {type(agent).__name__}")


def _decorate(function: Callable[..., Any] | None, **options: Any) -> Any:
    if function is None:
        return functools.partial(_decorate, **options)
    if isinstance(function, type) or not callable(function):
        raise TypeError("only a function can be decorated as an agent; derive a class from agl.LitAgent instead")
    return FunctionAgent(function, **options)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _lookup(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
