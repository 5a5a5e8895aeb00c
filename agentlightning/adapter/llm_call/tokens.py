"""Token ids and log probabilities, in all the places where servers return them.

vLLM returns `prompt_token_ids` and `token_ids` if the request has `return_token_ids`; llama.cpp returns an `id` with
each entry of `logprobs`; some servers write the id into the token's text, `token_id:42`.
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

_ID_PREFIX = "token_id:"


class Tokens(TypedDict):
    """The token ids and log probabilities of a call, each None if the server did not return them."""

    prompt_token_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None


def of_span(attributes: Attributes) -> Tokens:
    """Read them from span attributes of their own."""
    choice = {"token_ids": semconv.TOKEN_IDS, "logprobs": semconv.LOGPROBS}
    values = {key: from_json(attributes.get(name)) for key, name in choice.items()}
    prompt = from_json(attributes.get(semconv.PROMPT_TOKEN_IDS))
    return of_response({"prompt_token_ids": prompt, "choices": [values]})


def of_response(body: Json) -> Tokens:
    """Read them from the first choice of a whole response."""
    choice = first_of(body.get("choices"))
    logprobs = as_object(choice.get("logprobs"))
    entries = items(logprobs.get("content")) or _output_entries(body)
    return Tokens(
        prompt_token_ids=_numbers(body.get("prompt_token_ids") or choice.get("prompt_token_ids"), int),
        token_ids=_numbers(choice.get("token_ids"), int)
        or _numbers([entry.get("id", entry.get("token_id")) for entry in entries], int)
        or _ids_in_texts([entry.get("token") for entry in entries])
        or _ids_in_texts(logprobs.get("tokens")),
        logprobs=_numbers([entry.get("logprob") for entry in entries] or logprobs.get("token_logprobs"), float),
    )


def first_of(value: Any) -> Json:
    """Return the first object of a list of objects, or an empty object."""
    return as_object(next(iter(items(value)), None))


def _numbers(value: Any, kind: Callable[[Any], T]) -> list[T] | None:
    """Return a list of numbers; None if it is empty, or `value` is anything else."""
    values = cast("list[Any]", value) if isinstance(value, list) else []
    if not values or not all(isinstance(number, (int, float)) for number in values):
        return None
    return [kind(number) for number in values]


def _output_entries(body: Json) -> list[Json]:
    """Return the entries of a Responses body, which has them in each piece of text."""
    parts = [part for item in items(body.get("output")) for part in items(item.get("content"))]
    return [entry for part in parts for entry in items(part.get("logprobs"))]


def _ids_in_texts(tokens: Any) -> list[int] | None:
    texts = cast("list[Any]", tokens) if isinstance(tokens, list) else []
    if not texts or not all(isinstance(text, str) and text.startswith(_ID_PREFIX) for text in texts):
        return None
    return [int(text[len(_ID_PREFIX) :]) for text in texts]
