"""Agents written as functions: `@rollout` and its explicit forms."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ..types import LLM, AttemptedRollout, NamedResources, PromptTemplate, Resource, RolloutMode
from .base import LitAgent
from .parameters import Giver, asked_by, name_of

P = ParamSpec("P")
R = TypeVar("R")


class FunctionAgent(LitAgent[Any], Generic[P, R]):
    """A function that is an agent, and still callable as it was."""

    __name__: str
    __qualname__: str

    def __init__(
        self, function: Callable[P, R], *, strip_proxy: bool = True, second: type[Resource] | None = None
    ) -> None:
        asked = asked_by(function, second=second)
        functools.update_wrapper(self, function)
        self.__name__ = name_of(function)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self._function = function
        self._giver = Giver(self.__name__, asked, strip_proxy=strip_proxy)
        self._how_made = functools.partial(FunctionAgent, strip_proxy=strip_proxy, second=second)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<agent {self.__name__}>"

    def rollout(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Call the function with the task and what it asks for."""
        args, kwargs = self._giver.arguments(task, resources, rollout)
        return cast("Callable[..., Any]", self._function)(*args, **kwargs)

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Call the async function with the task and what it asks for."""
        return await self.rollout(task, resources, rollout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[Any, NamedResources, AttemptedRollout], Any]:
        """The same for every mode."""
        return self.rollout_async if _is_async(self._function) else self.rollout

    def __reduce__(self) -> Any:
        # By name where it has one that another process can import: the function itself hides behind the agent there.
        if self.__module__ != "__main__" and _named(self.__module__, self.__qualname__) is self:
            return self.__qualname__
        return self._how_made, (self._function,)


@overload
def rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """Make an agent of a function; its parameter names say what it is given.

    The first parameter is the task. `prompt_template` and `llm` are resources of that name or kind, `resources` is all
    of them, `rollout` is the rollout with its attempt; any other name is the resource of that name. A `ProxyLLM` comes
    as a plain `LLM` whose URL names the rollout, unless `strip_proxy` is False.
    """
    return _decorate(function, strip_proxy=strip_proxy)


@overload
def prompt_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def prompt_rollout() -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def prompt_rollout(function: Any = None, /) -> Any:
    """`rollout` for a function whose second parameter, whatever its name, is a prompt template."""
    return _decorate(function, second=PromptTemplate)


@overload
def llm_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def llm_rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """`rollout` for a function whose second parameter, whatever its name, is an LLM."""
    return _decorate(function, strip_proxy=strip_proxy, second=LLM)


def as_agent(agent: LitAgent[Any] | Callable[..., Any]) -> LitAgent[Any]:
    """`agent` itself if it is one; a function becomes one as with `@rollout`."""
    if isinstance(agent, LitAgent):
        return cast("LitAgent[Any]", agent)
    if isinstance(agent, type):
        raise TypeError(f"{agent.__name__} is a class; give an instance of it: {agent.__name__}(…)")
    if callable(agent):
        return FunctionAgent(agent)
    raise TypeError(f"an agent is a function or a LitAgent, not {type(agent).__name__}")


def _decorate(function: Callable[..., Any] | None, **options: Any) -> Any:
    if function is None:
        return functools.partial(_decorate, **options)
    if isinstance(function, type) or not callable(function):
        raise TypeError("only a function can be decorated as an agent; derive a class from agl.LitAgent instead")
    return FunctionAgent(function, **options)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _named(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
