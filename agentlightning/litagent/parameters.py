"""What a function agent asks for: read from its parameters, found among the resources."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter
from types import UnionType
from typing import Any, Final, Union, cast, get_args, get_origin

from ..errors import ResourceMissing
from ..types import LLM, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM, Resource

logger = logging.getLogger(__name__)

KINDS_BY_NAME: Final[dict[str, type[Resource]]] = {"llm": LLM, "prompt_template": PromptTemplate}
"""Parameters that say by their name what kind of resource they take."""

WHOLE: Final = frozenset({"resources", "rollout"})
"""Parameters that are given everything there is."""


@dataclass(frozen=True)
class Asked:
    """One parameter after the task, and which resources fit it."""

    name: str
    kinds: tuple[type[Resource], ...]
    """Empty: a resource of this name, of whatever kind."""
    default: Any
    positional: bool

    @property
    def optional(self) -> bool:
        """The function does without it."""
        return self.default is not Parameter.empty

    def fits(self, resource: Resource) -> bool:
        """Whether the parameter may be given this resource."""
        return not self.kinds or isinstance(resource, self.kinds)

    def __str__(self) -> str:
        kinds = " or ".join(kind.__name__ for kind in self.kinds)
        return f"{self.name!r} ({kinds})" if kinds else repr(self.name)


def asked_by(function: Callable[..., Any], *, second: type[Resource] | None = None) -> list[Asked]:
    """What `function` asks for besides the task, in order.

    `second` is the kind of resource that it must take, in its second parameter unless another one says so. Raises
    TypeError where the parameters cannot be those of an agent.
    """
    name = name_of(function)
    task, *others = _parameters(function, name)
    _check_task(task, name)
    asked = [_asked(each) for each in others if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    return asked if second is None else _with_second(asked, second, name)


def name_of(function: Callable[..., Any]) -> str:
    """How the function is called in messages."""
    return getattr(function, "__name__", None) or type(function).__name__


class Giver:
    """Finds what a function asks for, rollout after rollout."""

    def __init__(self, name: str, asked: list[Asked], *, strip_proxy: bool) -> None:
        self._name = name
        self._asked = asked
        self._strip_proxy = strip_proxy
        self._warned: set[str] = set()

    def arguments(
        self, task: Any, resources: NamedResources, rollout: AttemptedRollout
    ) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the keyword arguments for one rollout. Raises `ResourceMissing`."""
        positional, keyword = [task], dict[str, Any]()
        for asked in self._asked:
            value = self._value(asked, resources, rollout)
            if asked.positional:
                positional.append(value)
            else:
                keyword[asked.name] = value
        return positional, keyword

    def _value(self, asked: Asked, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        if asked.name == "rollout":
            return rollout
        if asked.name == "resources":
            return resources
        found = self._resource(asked, resources)
        if found is None:
            return self._default(asked, resources, rollout)
        # Who writes `llm: ProxyLLM` wants it as it is.
        if isinstance(found, ProxyLLM) and self._strip_proxy and ProxyLLM not in asked.kinds:
            return found.with_attempted_rollout(rollout)
        return found

    def _resource(self, asked: Asked, resources: NamedResources) -> Resource | None:
        named = resources.get(asked.name)
        if named is not None and asked.fits(named):
            return named
        fitting = [name for name, resource in resources.items() if asked.kinds and asked.fits(resource)]
        if len(fitting) > 1:
            self._warn_of_choice(asked, fitting)
        return resources[fitting[0]] if fitting else None

    def _warn_of_choice(self, asked: Asked, fitting: list[str]) -> None:
        if asked.name in self._warned:
            return
        self._warned.add(asked.name)
        logger.warning(
            "Agent %s asks for %s: no resource has that name and %s fit; it gets the first, %r. "
            "Name the parameter after the resource it means.",
            self._name,
            asked,
            ", ".join(map(repr, fitting)),
            fitting[0],
        )

    def _default(self, asked: Asked, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        if asked.optional:
            return asked.default
        raise ResourceMissing(
            f"agent {self._name} asks for {asked}, but {_what_there_is(resources, rollout)}", field=asked.name
        )


def _what_there_is(resources: NamedResources, rollout: AttemptedRollout) -> str:
    if not resources:
        return (
            f"rollout {rollout.rollout_id} has no resources: "
            "add some to the store, and enqueue the rollout after that or with their resources_id"
        )
    held = ", ".join(f"{name!r} ({type(resource).__name__})" for name, resource in resources.items())
    return f"the resources of rollout {rollout.rollout_id} are {held}"


def _parameters(function: Callable[..., Any], name: str) -> Iterator[Parameter]:
    try:
        found = list(_signature(function).parameters.values())
    except ValueError:
        raise TypeError(
            f"the parameters of {name} cannot be seen, so it cannot be an agent; wrap it in a def"
        ) from None
    if not found:
        raise TypeError(f"agent {name} takes no parameters; an agent's first parameter is the task")
    yield from found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):
        # An annotation that exists for type checkers only; the names will have to do.
        return inspect.signature(function)


def _check_task(task: Parameter, name: str) -> None:
    if task.name == "self":
        raise TypeError(f"agent {name} is a method; to write an agent as a class, derive the class from agl.LitAgent")
    if task.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
        raise TypeError(f"agent {name} must take the task as its first, positional parameter")
    if task.name in WHOLE | KINDS_BY_NAME.keys():
        raise TypeError(f"the first parameter of agent {name} is the task: put it before {task.name!r}")


def _asked(parameter: Parameter) -> Asked:
    kinds = _kinds(parameter.annotation)
    if not kinds and parameter.name in KINDS_BY_NAME:
        kinds = (KINDS_BY_NAME[parameter.name],)
    positional = parameter.kind is Parameter.POSITIONAL_ONLY
    return Asked(parameter.name, () if parameter.name in WHOLE else kinds, parameter.default, positional)


def _kinds(annotation: Any) -> tuple[type[Resource], ...]:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    classes = [cast("type[Any]", option) for option in options if isinstance(option, type)]
    return tuple(each for each in classes if issubclass(each, Resource))


def _with_second(asked: list[Asked], kind: type[Resource], name: str) -> list[Asked]:
    if any(issubclass(each, kind) for one in asked for each in one.kinds):
        return asked
    if not asked or asked[0].kinds or asked[0].name in WHOLE:
        raise TypeError(f"agent {name} takes no {kind.__name__}: make it the second parameter, after the task")
    first, *others = asked
    return [Asked(first.name, (kind,), first.default, first.positional), *others]
