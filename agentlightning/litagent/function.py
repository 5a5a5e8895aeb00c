"""Agents written as functions: `@rollout`, `@prompt_rollout` and `@llm_rollout`."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter
from types import UnionType
from typing import Any, Final, Generic, ParamSpec, TypeVar, Union, cast, get_args, get_origin, overload

from ..errors import ResourceMissing
from ..types import LLM, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM, Resource, RolloutMode
from .base import LitAgent

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

KIND_BY_NAME: Final[dict[str, type[Resource]]] = {"llm": LLM, "prompt_template": PromptTemplate}
"""Resource types that parameter names imply, unless the parameter is annotated with a resource type."""

RESERVED_NAMES: Final = frozenset({"resources", "rollout"})
"""Parameter names that do not select a resource: they receive all resources or the rollout itself."""


class FunctionAgent(LitAgent[Any], Generic[P, R]):
    """An agent that wraps a function. Calling the agent calls the function itself."""

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
        """Call the function with the task and with the arguments for its other parameters."""
        args, kwargs = self._resolver.arguments(task, resources, rollout)
        return cast("Callable[..., Any]", self._function)(*args, **kwargs)

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Async form of `rollout`."""
        return await self.rollout(task, resources, rollout)

    def method_for(self, mode: RolloutMode | None) -> Callable[[Any, NamedResources, AttemptedRollout], Any]:
        """Return `rollout_async` if the function is async, otherwise `rollout`. Both handle every mode."""
        return self.rollout_async if _is_async(self._function) else self.rollout

    def __reduce__(self) -> Any:
        # If another process can import the agent by its name, pickle only the name. Otherwise, pickle the function.
        if self.__module__ != "__main__" and _lookup(self.__module__, self.__qualname__) is self:
            return self.__qualname__
        return self._recreate, (self._function,)


@overload
def rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """Turn a function into an agent. The names and types of its parameters determine its arguments.

    The first parameter receives the task. A parameter called `resources` receives all resources, and one called
    `rollout` receives the rollout with its attempt. Every other parameter receives the resource with the same name or,
    if there is none, the first resource of the annotated type. The names `prompt_template` and `llm` imply the types
    `PromptTemplate` and `LLM`. A `ProxyLLM` is passed as a plain `LLM` whose URL identifies the attempt, unless
    `strip_proxy` is False or the parameter is annotated with `ProxyLLM`.
    """
    return _decorate(function, strip_proxy=strip_proxy)


@overload
def prompt_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def prompt_rollout() -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def prompt_rollout(function: Any = None, /) -> Any:
    """Like `rollout`, but the second parameter of the function receives a prompt template, whatever its name is."""
    return _decorate(function, second=PromptTemplate)


@overload
def llm_rollout(function: Callable[P, R], /) -> FunctionAgent[P, R]: ...
@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionAgent[P, R]]: ...
def llm_rollout(function: Any = None, /, *, strip_proxy: bool = True) -> Any:
    """Like `rollout`, but the second parameter of the function receives an LLM, whatever its name is."""
    return _decorate(function, strip_proxy=strip_proxy, second=LLM)


def as_agent(agent: LitAgent[Any] | Callable[..., Any]) -> LitAgent[Any]:
    """Return `agent` unchanged if it is a `LitAgent`. If it is a function, wrap it as `@rollout` does."""
    if isinstance(agent, LitAgent):
        return cast("LitAgent[Any]", agent)
    if isinstance(agent, type):
        raise TypeError(f"{agent.__name__} is a class; pass an instance: {agent.__name__}(…)")
    if callable(agent):
        return FunctionAgent(agent)
    raise TypeError(f"an agent must be a function or a LitAgent, not {type(agent).__name__}")


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter of an agent function, other than the task, with the resource types that it accepts."""

    name: str
    kinds: tuple[type[Resource], ...]
    """Accepted resource types. If empty, a resource of any type is accepted, but it must have the parameter's name."""
    default: Any
    positional_only: bool

    def accepts(self, resource: Resource) -> bool:
        """Return True if the parameter accepts the resource's type."""
        return not self.kinds or isinstance(resource, self.kinds)

    def __str__(self) -> str:
        kinds = " or ".join(kind.__name__ for kind in self.kinds)
        return f"{self.name!r} ({kinds})" if kinds else repr(self.name)


def parameter_specs(function: Callable[..., Any], *, second: type[Resource] | None = None) -> list[ParameterSpec]:
    """Return the parameters of an agent function after the task, in order, without `*args` and `**kwargs`.

    `second` is a resource type that one of these parameters must accept. If none of them does, the function's second
    parameter is changed to accept that type. Raises TypeError if the signature is not valid for an agent.
    """
    name = name_of(function)
    task, *others = _parameters(function, name)
    _check_task(task, name)
    specs = [_spec(each) for each in others if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    return specs if second is None else _with_second(specs, second, name)


def name_of(value: Any) -> str:
    """Return the name of a function, class or agent, for use in messages."""
    return getattr(value, "__name__", None) or type(value).__name__


class ParameterResolver:
    """Determines the arguments to pass to an agent function for each rollout."""

    def __init__(self, function_name: str, specs: list[ParameterSpec], *, strip_proxy: bool) -> None:
        self._function_name = function_name
        self._specs = specs
        self._strip_proxy = strip_proxy
        self._warned: set[str] = set()

    def arguments(
        self, task: Any, resources: NamedResources, rollout: AttemptedRollout
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments for one rollout.

        Raises `ResourceMissing` if there is no resource for a required parameter.
        """
        positional, keyword = [task], dict[str, Any]()
        for spec in self._specs:
            value = self._value(spec, resources, rollout)
            if spec.positional_only:
                positional.append(value)
            else:
                keyword[spec.name] = value
        return positional, keyword

    def _value(self, spec: ParameterSpec, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        if spec.name == "rollout":
            return rollout
        if spec.name == "resources":
            return resources
        found = self._resource(spec, resources)
        if found is None:
            return self._default(spec, resources, rollout)
        # A parameter annotated with `ProxyLLM` gets the `ProxyLLM` itself.
        if isinstance(found, ProxyLLM) and self._strip_proxy and ProxyLLM not in spec.kinds:
            return found.with_attempted_rollout(rollout)
        return found

    def _resource(self, spec: ParameterSpec, resources: NamedResources) -> Resource | None:
        named = resources.get(spec.name)
        if named is not None and spec.accepts(named):
            return named
        fitting = [name for name, resource in resources.items() if spec.kinds and spec.accepts(resource)]
        if len(fitting) > 1:
            self._warn_ambiguous(spec, fitting)
        return resources[fitting[0]] if fitting else None

    def _warn_ambiguous(self, spec: ParameterSpec, fitting: list[str]) -> None:
        if spec.name in self._warned:
            return
        self._warned.add(spec.name)
        logger.warning(
            "Parameter %s of agent %s matches several resources: %s. Using the first, %r. "
            "To choose another one, name the parameter after it.",
            spec,
            self._function_name,
            ", ".join(map(repr, fitting)),
            fitting[0],
        )

    def _default(self, spec: ParameterSpec, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        if spec.default is not Parameter.empty:
            return spec.default
        raise ResourceMissing(
            f"agent {self._function_name} needs {spec}, but {_available(resources, rollout)}", field=spec.name
        )


def _available(resources: NamedResources, rollout: AttemptedRollout) -> str:
    if not resources:
        return (
            f"rollout {rollout.rollout_id} has no resources: "
            "add them to the store before enqueuing the rollout, or enqueue it with a resources_id"
        )
    names = ", ".join(f"{name!r} ({type(resource).__name__})" for name, resource in resources.items())
    return f"the resources of rollout {rollout.rollout_id} are {names}"


def _parameters(function: Callable[..., Any], name: str) -> list[Parameter]:
    try:
        found = list(_signature(function).parameters.values())
    except ValueError:
        raise TypeError(f"{name} has no readable signature, so it cannot be an agent; wrap it in a function") from None
    if not found:
        raise TypeError(f"agent {name} takes no parameters; an agent's first parameter is the task")
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):
        # An annotation cannot be evaluated at run time, so leave all string annotations unevaluated.
        return inspect.signature(function)


def _check_task(task: Parameter, name: str) -> None:
    if task.name == "self":
        raise TypeError(f"agent {name} is a method; to write an agent as a class, derive the class from agl.LitAgent")
    if task.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
        raise TypeError(f"agent {name} must take the task as its first, positional parameter")
    if task.name in RESERVED_NAMES | KIND_BY_NAME.keys():
        raise TypeError(f"the first parameter of agent {name} must be the task; put it before {task.name!r}")


def _spec(parameter: Parameter) -> ParameterSpec:
    name = parameter.name
    kinds = _annotated_kinds(parameter.annotation) or ((KIND_BY_NAME[name],) if name in KIND_BY_NAME else ())
    positional_only = parameter.kind is Parameter.POSITIONAL_ONLY
    return ParameterSpec(name, () if name in RESERVED_NAMES else kinds, parameter.default, positional_only)


def _annotated_kinds(annotation: Any) -> tuple[type[Resource], ...]:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    classes = [cast("type[Any]", option) for option in options if isinstance(option, type)]
    return tuple(each for each in classes if issubclass(each, Resource))


def _with_second(specs: list[ParameterSpec], kind: type[Resource], name: str) -> list[ParameterSpec]:
    if any(issubclass(each, kind) for spec in specs for each in spec.kinds):
        return specs
    if not specs or specs[0].kinds or specs[0].name in RESERVED_NAMES:
        raise TypeError(f"agent {name} takes no {kind.__name__}: make it the second parameter, after the task")
    return [replace(specs[0], kinds=(kind,)), *specs[1:]]


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
