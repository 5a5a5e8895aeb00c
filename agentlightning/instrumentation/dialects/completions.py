"""OpenAI's older text completions, still what many training servers use."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Dialect, Json, Message, items, text, texts
from .chat import merge_extra, update


def prompt(body: Json) -> list[Message]:
    """The prompt, or one message for each of several."""
    return [Message("user", [text(asked)], asked) for asked in texts(body.get("prompt"))]


def answer(body: Json) -> list[Message]:
    """One message for each choice."""
    return [_choice(choice) for choice in items(body.get("choices"))]


def fold(events: Iterable[Json]) -> Json:
    """The completion whose chunks these are."""
    body: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        pieces = event.pop("choices", None)
        update(body, event)
        for piece in items(pieces):
            index = piece.get("index") or 0
            choice = choices.setdefault(index, {"index": index, "text": ""})
            choice["text"] += piece.get("text") or ""
            for key in piece.keys() - {"index", "text"}:
                merge_extra(choice, key, piece[key])
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _choice(choice: Json) -> Message:
    said = str(choice.get("text") or "")
    return Message("assistant", [text(said)], said, choice.get("finish_reason"))


DIALECT = Dialect("openai.completion", "text_completion", "openai", "prompt", prompt, answer, fold)
