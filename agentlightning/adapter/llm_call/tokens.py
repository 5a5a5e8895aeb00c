"""Token ids and log probabilities, wherever a server puts them in its answer.

vLLM gives `prompt_token_ids` and `token_ids` when asked with `return_token_ids`; llama.cpp gives an `id` with each
entry of `logprobs`; some write the id into the token's text, `token_id:42`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from typing_extensions import TypedDict

from ... import semconv
from ...instrumentation.dialects.base import as_object, items
from .attributes import Attributes, from_json
from .view import Json

T = TypeVar("T")

_AS_TEXT = "token_id:"


class Tokens(TypedDict):
    """What training needs of an answer, each None where the server did not give it."""

    prompt_token_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None


def of_span(attributes: Attributes) -> Tokens:
    """As they stand in attributes of their own."""
    choice = {"token_ids": semconv.TOKEN_IDS, "logprobs": semconv.LOGPROBS}
    given = {key: from_json(attributes.get(name)) for key, name in choice.items()}
    prompt = from_json(attributes.get(semconv.PROMPT_TOKEN_IDS))
    return of_response({"prompt_token_ids": prompt, "choices": [given]})


def of_response(body: Json) -> Tokens:
    """Of the first choice of a whole answer."""
    choice = first_of(body.get("choices"))
    logprobs = as_object(choice.get("logprobs"))
    entries = items(logprobs.get("content")) or _of_output(body)
    return Tokens(
        prompt_token_ids=numbers(body.get("prompt_token_ids") or choice.get("prompt_token_ids"), int),
        token_ids=numbers(choice.get("token_ids"), int) or _ids_in(entries) or _ids_in_texts(logprobs.get("tokens")),
        logprobs=numbers([entry.get("logprob") for entry in entries] or logprobs.get("token_logprobs"), float),
    )


def numbers(value: Any, kind: Callable[[Any], T]) -> list[T] | None:
    """The list of numbers that `value` is; None where it is empty, or anything else."""
    several = cast("list[Any]", value) if isinstance(value, list) else []
    if not several or not all(isinstance(one, (int, float)) for one in several):
        return None
    return [kind(one) for one in several]


def first_of(value: Any) -> Json:
    """The first object in what should be a list of them; empty where there is none."""
    found = items(value)
    return found[0] if found else {}


def _of_output(body: Json) -> list[Json]:
    """Entries of a Responses answer, which has them with each piece of text."""
    parts = [part for item in items(body.get("output")) for part in items(item.get("content"))]
    return [entry for part in parts for entry in items(part.get("logprobs"))]


def _ids_in(entries: list[Json]) -> list[int] | None:
    given = numbers([entry.get("id", entry.get("token_id")) for entry in entries], int)
    return given or _ids_in_texts([entry.get("token") for entry in entries])


def _ids_in_texts(tokens: Any) -> list[int] | None:
    several = cast("list[Any]", tokens) if isinstance(tokens, list) else []
    if not several or not all(isinstance(token, str) and token.startswith(_AS_TEXT) for token in several):
        return None
    return [int(token[len(_AS_TEXT) :]) for token in several]
