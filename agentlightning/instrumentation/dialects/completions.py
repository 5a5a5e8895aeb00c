"""OpenAI's legacy text completions, which many training servers still use."""

from __future__ import annotations

from collections.abc import Iterable

from .base import ApiDialect, Json, Message, items, prompt_messages, text
from .chat import merge_field, update


def prompt(body: Json) -> list[Message]:
    """Return the prompt, or one message for each of several."""
    return prompt_messages(body.get("prompt"))


def answer(body: Json) -> list[Message]:
    """Return one message for each choice."""
    return [_choice(choice) for choice in items(body.get("choices"))]


def fold(events: Iterable[Json]) -> Json:
    """Combine the chunks of a completion."""
    body: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        chunks = event.pop("choices", None)
        update(body, event)
        for chunk in items(chunks):
            index = chunk.pop("index", None) or 0
            choice = choices.setdefault(index, {"index": index, "text": ""})
            for key, value in chunk.items():
                merge_field(choice, key, value, join_strings=key == "text")
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _choice(choice: Json) -> Message:
    content = str(choice.get("text") or "")
    return Message("assistant", [text(content)], content, choice.get("finish_reason"))


DIALECT = ApiDialect("openai.completion", "text_completion", "openai", "prompt", prompt, answer, fold)
