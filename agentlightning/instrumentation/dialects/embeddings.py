"""OpenAI's embeddings: what was asked counts, the vectors are left to the raw response."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Dialect, Json, Message, text, texts


def prompt(body: Json) -> list[Message]:
    """One message for each text."""
    return [Message("user", [text(asked)], asked) for asked in texts(body.get("input"))]


def answer(body: Json) -> list[Message]:
    """Vectors are no messages."""
    return []


def fold(events: Iterable[Json]) -> Json:
    """Embeddings are never streamed; the last event is as good as any."""
    return {key: value for event in events for key, value in event.items()}


DIALECT = Dialect("openai.embeddings", "embeddings", "openai", "input", prompt, answer, fold)
