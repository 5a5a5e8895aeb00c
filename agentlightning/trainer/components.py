"""Components of a trainer, in whatever form they are given: instance, class, factory, import path, or dict."""

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
    what: str,
    names: Mapping[str, Callable[..., T]] | None = None,
    offered: Mapping[str, Any] | None = None,
) -> T:
    """The component that `given` stands for.

    A string is one of `names` or an import path, `package.module:Name`; a dict has such a string, a class or a factory
    as its `type`, and what to call it with. Whatever is called also gets those arguments `offered` that it takes.
    Raises TypeError or ValueError naming `what` it was for.
    """
    a_kind: Any = get_origin(kind) or kind
    found = _named(given, what, names) if isinstance(given, str) else given
    if isinstance(found, a_kind):
        return cast("T", found)
    made = _made(found, what, names, offered or {})
    if isinstance(made, a_kind):
        return cast("T", made)
    raise TypeError(f"{what} is a {a_kind.__name__}, and {given!r} gave a {type(made).__name__}")


def imported(path: str, what: str, names: Mapping[str, Any] | None = None) -> Any:
    """What the import path names: `package.module:Name` or `package.module.Name`."""
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not attribute:
        known = "".join(f"{name!r}, " for name in names or ())
        raise ValueError(f"{what}={path!r} means nothing: give {known}an import path like 'package.module:Name'")
    found = _module(module, path, what)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what}={path!r} means nothing: there is no {part!r} in {module}")
        found = getattr(found, part)
    return found


def _module(name: str, path: str, what: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it needs is not
        raise ValueError(f"{what}={path!r} means nothing: there is no module {error.name!r}") from None


def _named(text: str, what: str, names: Mapping[str, Any] | None) -> Any:
    return (names or {}).get(text) or imported(text, what, names)


def _made(given: Any, what: str, names: Mapping[str, Any] | None, offered: Mapping[str, Any]) -> Any:
    if isinstance(given, Mapping):
        arguments = dict(cast("Mapping[str, Any]", given))
        if "type" not in arguments:
            raise ValueError(f"{what} is given as a dict, so it needs a 'type': a class, a factory or an import path")
        maker: Any = arguments.pop("type")
        maker = _named(maker, what, names) if isinstance(maker, str) else maker
        return maker(**{**_taken(maker, offered), **arguments})
    if callable(given):
        return given(**_taken(given, offered))
    raise TypeError(
        f"{what} is given as an instance, a class, a factory, an import path or a dict, not {type(given).__name__}"
    )


def _taken(maker: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that `maker` takes by name."""
    if not offered:
        return {}
    parameters = inspect.signature(maker).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    return {parameter.name: offered[parameter.name] for parameter in parameters if parameter.name in offered}
