"""OpenAI's embeddings: the texts are recorded, and the vectors are in the raw response only."""

from __future__ import annotations

from collections.abc import Iterable

from .base import ApiDialect, Json, Message, prompt_messages


def prompt(body: Json) -> list[Message]:
    """Return one message for each text."""
    return prompt_messages(body.get("input"))


def answer(body: Json) -> list[Message]:
    """Return no messages: the response has vectors only."""
    return []


def fold(events: Iterable[Json]) -> Json:
    """Merge the events; embeddings are never streamed."""
    return {key: value for event in events for key, value in event.items()}


DIALECT = ApiDialect("openai.embeddings", "embeddings", "openai", "input", prompt, answer, fold)
