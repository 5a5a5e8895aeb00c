"""Parsing of span attributes and response bodies: JSON text, numbered keys, token counts, and token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from ... import semconv
from ...instrumentation.dialects.base import as_object, items, parse_json
from .view import Json

T = TypeVar("T")
Attributes = Mapping[str, Any]

_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "prompt"),
    "completion_tokens": ("completion_tokens", "output_tokens", "completion"),
    "total_tokens": ("total_tokens", "total"),
}
_ID_PREFIX = "token_id:"
_NOT_PARAMETERS = frozenset(
    {
        *("model", "messages", "input", "prompt", "instructions", "system", "tools", "functions"),
        *("type", "stream", "streaming", "is_stream", "stream_options", "headers"),
    }
)


def from_json(value: Any) -> Any:
    """Parse the JSON text of an object or a list. Return any other value unchanged."""
    return parse_json(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def object_in(attributes: Attributes, name: str) -> Json:
    """Return the JSON object in the attribute `name`, or an empty dict if there is none."""
    return as_object(from_json(attributes.get(name)))


def objects_in(attributes: Attributes, name: str) -> list[Json]:
    """Return the JSON objects from the list in the attribute `name`, or an empty list if there are none."""
    return items(from_json(attributes.get(name)))


def nested(attributes: Attributes, prefix: str) -> Any:
    """Build a nested value from the attributes `prefix.0.key`, `prefix.0.other.1`, … Return None if there are none."""
    tree: Json = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}.") and value is not None:
            _insert(tree, key[len(prefix) + 1 :].split("."), value)
    return _with_lists(tree) if tree else None


def parameters(request: Json) -> Json:
    """Return the request parameters that do not have their own field in `LLMCall`: temperature, max_tokens, …"""
    return {name: value for name, value in request.items() if name not in _NOT_PARAMETERS and value is not None}


def usage(counts: Any) -> dict[str, int]:
    """Convert token counts from any API to OpenAI's names. A missing total is computed if possible."""
    found = {name: first(as_object(counts), names) for name, names in _COUNTS.items()}
    prompt, completion, total = found.values()
    if total is None and isinstance(prompt, int) and isinstance(completion, int):
        found["total_tokens"] = prompt + completion
    return {name: int(count) for name, count in found.items() if isinstance(count, (int, float))}


def first_of(value: Any) -> Json:
    """Return the first object in a list, or an empty dict if there is none."""
    return as_object(next(iter(items(value)), None))


def first(attributes: Attributes, names: Iterable[str]) -> Any:
    """Return the value of the first attribute in `names` that is set, or None if none of them is."""
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


# Token ids: vLLM returns `prompt_token_ids` and `token_ids` if the request sets `return_token_ids`. llama.cpp returns
# an `id` in each entry of `logprobs`. Some servers return the id instead of the token's text, as in `token_id:42`.


def tokens_of_span(attributes: Attributes) -> Json:
    """Read token ids and log probabilities from the `agentlightning.*` attributes of a span."""
    choice = {"token_ids": semconv.TOKEN_IDS, "logprobs": semconv.LOGPROBS}
    values = {key: from_json(attributes.get(name)) for key, name in choice.items()}
    prompt = from_json(attributes.get(semconv.PROMPT_TOKEN_IDS))
    return tokens_of_response({"prompt_token_ids": prompt, "choices": [values]})


def tokens_of_response(body: Json) -> Json:
    """Read token ids and log probabilities from the body of a non-streamed response.

    They are read from the first choice or, in a Responses API body, from the output. Values that the server did not
    return are None.
    """
    choice = first_of(body.get("choices"))
    logprobs = as_object(choice.get("logprobs"))
    entries = items(logprobs.get("content")) or _output_entries(body)
    return {
        "prompt_token_ids": _numbers(body.get("prompt_token_ids") or choice.get("prompt_token_ids"), int),
        "token_ids": _numbers(choice.get("token_ids"), int)
        or _numbers([entry.get("id", entry.get("token_id")) for entry in entries], int)
        or _ids_in_texts([entry.get("token") for entry in entries])
        or _ids_in_texts(logprobs.get("tokens")),
        "logprobs": _numbers([entry.get("logprob") for entry in entries] or logprobs.get("token_logprobs"), float),
    }


def _insert(tree: Json, path: list[str], value: Any) -> None:
    for step in path[:-1]:
        branch = tree.setdefault(step, {})
        if not isinstance(branch, dict):  # conflict: both `a` and `a.b` have a value
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


def _numbers(value: Any, kind: Callable[[Any], T]) -> list[T] | None:
    """Convert each number in `value` to `kind`. Return None if `value` is empty or not a list of numbers."""
    values = cast("list[Any]", value) if isinstance(value, list) else []
    if not values or not all(isinstance(number, (int, float)) for number in values):
        return None
    return [kind(number) for number in values]


def _output_entries(body: Json) -> list[Json]:
    """Return the log probability entries from all content parts in a Responses API body."""
    parts = [part for item in items(body.get("output")) for part in items(item.get("content"))]
    return [entry for part in parts for entry in items(part.get("logprobs"))]


def _ids_in_texts(tokens: Any) -> list[int] | None:
    texts = cast("list[Any]", tokens) if isinstance(tokens, list) else []
    if not texts or not all(isinstance(text, str) and text.startswith(_ID_PREFIX) for text in texts):
        return None
    return [int(text[len(_ID_PREFIX) :]) for text in texts]
