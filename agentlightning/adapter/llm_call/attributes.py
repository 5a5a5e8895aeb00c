"""Reading span attributes: JSON text, numbered keys, and numbers that may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson

from ...instrumentation.dialects.base import as_object, items
from .view import Json

Attributes = Mapping[str, Any]


def from_json(value: Any) -> Any:
    """What JSON text says; anything else, and text that is not JSON, as it is."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def object_in(attributes: Attributes, name: str) -> Json:
    """The JSON object that an attribute holds, empty where it does not."""
    return as_object(from_json(attributes.get(name)))


def objects_in(attributes: Attributes, name: str) -> list[Json]:
    """The JSON objects of the list that an attribute holds."""
    return items(from_json(attributes.get(name)))


def nested(attributes: Attributes, prefix: str) -> Any:
    """What is spread over `prefix.0.key`, `prefix.0.other.1` and so on, as lists and objects; None where nothing is."""
    tree: Json = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}.") and value is not None:
            _put(tree, key[len(prefix) + 1 :].split("."), value)
    return _with_lists(tree) if tree else None


def usage(asked: Any, said: Any, total: Any = None) -> dict[str, int]:
    """Token counts under OpenAI's names; those that are not known are left out."""
    if total is None and isinstance(asked, int) and isinstance(said, int):
        total = asked + said
    counts = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": total}
    return {name: int(count) for name, count in counts.items() if isinstance(count, (int, float))}


def usage_of(counts: Json) -> dict[str, int]:
    """The same from a usage object of any API."""
    return usage(
        counts.get("prompt_tokens", counts.get("input_tokens")),
        counts.get("completion_tokens", counts.get("output_tokens")),
        counts.get("total_tokens"),
    )


def first(attributes: Attributes, names: Iterable[str]) -> Any:
    """The value of the first of these attributes that there is."""
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _put(tree: Json, path: list[str], value: Any) -> None:
    for step in path[:-1]:
        below = tree.setdefault(step, {})
        if not isinstance(below, dict):  # a value stands where others have a branch
            return
        tree = cast("Json", below)
    tree.setdefault(path[-1], value)


def _with_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    branches = cast("Json", tree)
    if all(key.isdecimal() for key in branches):
        return [_with_lists(branches[key]) for key in sorted(branches, key=int)]
    return {key: _with_lists(value) for key, value in branches.items()}
