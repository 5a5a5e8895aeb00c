"""Parsing of span attributes: JSON text, numbered keys, and optional numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson

from ...instrumentation.dialects.base import as_object, items
from .view import Json

Attributes = Mapping[str, Any]


def from_json(value: Any) -> Any:
    """Parse JSON text; return anything else, and text that is not JSON, unchanged."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def object_in(attributes: Attributes, name: str) -> Json:
    """Return the JSON object in an attribute, or an empty one."""
    return as_object(from_json(attributes.get(name)))


def objects_in(attributes: Attributes, name: str) -> list[Json]:
    """Return the JSON objects of the list in an attribute."""
    return items(from_json(attributes.get(name)))


def nested(attributes: Attributes, prefix: str) -> Any:
    """Rebuild the lists and objects flattened into `prefix.0.key`, `prefix.0.other.1`, …; None if there are none."""
    tree: Json = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}.") and value is not None:
            _insert(tree, key[len(prefix) + 1 :].split("."), value)
    return _with_lists(tree) if tree else None


def usage(prompt: Any, completion: Any, total: Any = None) -> dict[str, int]:
    """Return token counts under OpenAI's names, without the missing ones."""
    if total is None and isinstance(prompt, int) and isinstance(completion, int):
        total = prompt + completion
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return {name: int(count) for name, count in counts.items() if isinstance(count, (int, float))}


def usage_of(counts: Json) -> dict[str, int]:
    """Return the same from the usage object of any API."""
    return usage(
        counts.get("prompt_tokens", counts.get("input_tokens")),
        counts.get("completion_tokens", counts.get("output_tokens")),
        counts.get("total_tokens"),
    )


def first(attributes: Attributes, names: Iterable[str]) -> Any:
    """Return the first of these attributes that is present."""
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _insert(tree: Json, path: list[str], value: Any) -> None:
    for step in path[:-1]:
        branch = tree.setdefault(step, {})
        if not isinstance(branch, dict):  # one attribute has a value where another one has a branch
            return
        tree = cast("Json", branch)
    tree.setdefault(path[-1], value)


def _with_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    branches = cast("Json", tree)
    if all(key.isdecimal() for key in branches):
        return [_with_lists(branches[key]) for key in sorted(branches, key=int)]
    return {key: _with_lists(value) for key, value in branches.items()}
