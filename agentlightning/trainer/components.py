"""Functions that build a trainer's components from instances, classes, factories, names, import paths or dicts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import Parameter
from typing import Any, TypeVar, cast, get_origin

T = TypeVar("T")


def build(
    given: Any,
    kind: type[T],
    *,
    parameter: str,
    default: Any = None,
    names: Mapping[str, Callable[..., T]] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Return the component that `given` specifies, or the one that `default` specifies if `given` is None.

    An instance of `kind` is returned unchanged, and a class or factory is called. A string must be a key in `names` or
    an import path such as `package.module:Name`. A dict must have a "type": a class, a factory or such a string. The
    dict's other items are passed as keyword arguments. Classes and factories also receive those `defaults` that they
    accept. If `given` is invalid, raises a TypeError or ValueError whose message contains `parameter`.
    """
    component_type: Any = get_origin(kind) or kind
    given = default if given is None else given
    resolved = resolve_name(given, parameter, names) if isinstance(given, str) else given
    if not isinstance(resolved, component_type):
        resolved = _call(resolved, parameter, names, defaults or {})
    if isinstance(resolved, component_type):
        return cast("T", resolved)
    raise TypeError(f"{parameter} must be a {component_type.__name__}; {given!r} returned a {type(resolved).__name__}")


def resolve_name(name: str, parameter: str, names: Mapping[str, Any] | None = None) -> Any:
    """Return the object that `name` refers to. Raises ValueError if there is no such object.

    `name` is a key in `names`, or an import path of the form `package.module:Name` or `package.module.Name`.
    """
    if found := (names or {}).get(name):
        return found
    module, _, attributes = name.partition(":") if ":" in name else name.rpartition(".")
    if not module or not attributes:
        choices = "".join(f"{each!r}, " for each in names or ())
        raise ValueError(
            f"unknown {parameter} {name!r}; choose from {choices}or use an import path like 'package.module:Name'"
        )
    found = _import(module, name, parameter)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ValueError(f"unknown {parameter} {name!r}: {module} has no {attribute!r}")
        found = getattr(found, attribute)
    return found


def _import(module: str, name: str, parameter: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its imports fails
        raise ValueError(f"unknown {parameter} {name!r}: no module named {error.name!r}") from None


def _call(given: Any, parameter: str, names: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {}
    factory = given
    if isinstance(given, Mapping):
        arguments = dict(cast("Mapping[str, Any]", given))
        if "type" not in arguments:
            raise ValueError(f"the dict passed as {parameter} needs a 'type': a class, a factory or an import path")
        factory = arguments.pop("type")
        factory = resolve_name(factory, parameter, names) if isinstance(factory, str) else factory
    if not callable(factory):
        kind = type(factory).__name__
        raise TypeError(f"{parameter} must be an instance, a class, a factory, an import path or a dict, not {kind}")
    return factory(**{**_accepted(factory, defaults), **arguments})


def _accepted(factory: Callable[..., Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `defaults` that `factory` accepts as keyword arguments."""
    if not defaults:
        return {}
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return defaults
    return {parameter.name: defaults[parameter.name] for parameter in parameters if parameter.name in defaults}
