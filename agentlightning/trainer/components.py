"""Components of a trainer, in whatever form they are given: instance, class, factory, import path, or dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar, cast, get_origin

T = TypeVar("T")


def build(given: Any, kind: type[T], *, what: str, names: Mapping[str, Callable[[], T]] | None = None) -> T:
    """The component that `given` stands for.

    A string is one of `names` or an import path, `package.module:Name`; a dict has such a path, a class or a factory as
    its `type`, and what to call it with. Raises TypeError naming `what` it was for.
    """
    a_kind: Any = get_origin(kind) or kind
    if isinstance(given, a_kind):
        return cast("T", given)
    if isinstance(given, str):
        return build((names or {}).get(given) or imported(given, what, names), kind, what=what, names=names)
    made = _made(given, what, names)
    if isinstance(made, a_kind):
        return cast("T", made)
    raise TypeError(f"{what} is a {a_kind.__name__}, and {given!r} gave a {type(made).__name__}")


def imported(path: str, what: str, names: Mapping[str, Any] | None = None) -> Any:
    """What the import path names: `package.module:Name` or `package.module.Name`."""
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not attribute:
        known = "".join(f"{name!r}, " for name in names or ())
        raise ValueError(f"{what}={path!r} means nothing: give {known}an import path like 'package.module:Name'")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _made(given: Any, what: str, names: Mapping[str, Callable[[], Any]] | None) -> Any:
    if isinstance(given, Mapping):
        arguments = dict(cast("Mapping[str, Any]", given))
        if "type" not in arguments:
            raise ValueError(f"{what} is given as a dict, so it needs a 'type': a class, a factory or an import path")
        maker: Any = arguments.pop("type")
        if isinstance(maker, str):
            maker = imported(maker, what, names)
        return maker(**arguments)
    if callable(given):
        return given()
    raise TypeError(
        f"{what} is given as an instance, a class, a factory, an import path or a dict, not {type(given).__name__}"
    )
