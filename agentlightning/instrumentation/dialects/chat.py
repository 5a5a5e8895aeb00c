"""OpenAI's chat completions, which most servers support."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ...semconv import LLM_CALL
from .base import ApiDialect, Json, Message, Part, as_object, content_text, items, media, text, tool_call, tool_response

_WHOLE_FIELDS = frozenset({"role", "id", "type", "name"})
"""Fields of a delta that some servers repeat in every chunk; all other strings are pieces of a text."""


def prompt(body: Json) -> list[Message]:
    """Return the conversation."""
    return [_message(message) for message in items(body.get("messages"))]


def answer(body: Json) -> list[Message]:
    """Return one message for each choice."""
    return [_choice(choice) for choice in items(body.get("choices"))]


def fold(events: Iterable[Json]) -> Json:
    """Combine the chunks of a completion."""
    body: Json = {}
    choices: dict[int, _FoldedChoice] = {}
    for event in events:
        chunks = event.pop("choices", None)
        update(body, event)
        for chunk in items(chunks):
            index = chunk.get("index") or 0
            if index not in choices:
                choices[index] = _FoldedChoice(index)
            choices[index].add(chunk)
    body["object"] = "chat.completion"
    body["choices"] = [choices[index].body() for index in sorted(choices)]
    return body


def update(body: Json, event: Json) -> None:
    """Add the fields of a later event; null does not replace a value."""
    if None in event.values():
        event = {key: value for key, value in event.items() if value is not None or key not in body}
    body.update(event)


def merge_field(target: Json, key: str, value: Any, *, join_strings: bool = False) -> None:
    """Merge a field of a chunk into that of earlier chunks: extend lists, merge objects, replace other values."""
    current = target.get(key)
    if isinstance(value, list) and isinstance(current, list):
        current.extend(cast("list[Any]", value))
    elif isinstance(value, dict) and isinstance(current, dict):
        for inner, more in as_object(value).items():
            merge_field(as_object(current), inner, more, join_strings=join_strings)
    elif join_strings and isinstance(value, str) and isinstance(current, str) and key not in _WHOLE_FIELDS:
        target[key] = current + value
    elif value is not None or key not in target:
        target[key] = value


class _FoldedChoice:
    """A choice, combined from the chunks so far."""

    def __init__(self, index: int) -> None:
        self._message: Json = {}
        self._choice: Json = {"index": index, "message": self._message}
        self._texts: dict[str, list[str]] = {}
        """Pieces of text, joined once at the end: responses of ten thousand chunks are not rare."""

    def add(self, chunk: Json) -> None:
        for key, value in chunk.items():
            if key == "delta":
                self._add_delta(as_object(value))
            elif key != "index":
                merge_field(self._choice, key, value)

    def body(self) -> Json:
        self._message.update({key: "".join(pieces) for key, pieces in self._texts.items()})
        return self._choice

    def _add_delta(self, delta: Json) -> None:
        texts = self._texts
        for key, value in delta.items():
            if key in texts and isinstance(value, str):
                texts[key].append(value)
            elif isinstance(value, str) and key not in _WHOLE_FIELDS:
                texts[key] = [value]
            elif key == "tool_calls":
                _add_tool_calls(self._message.setdefault(key, []), items(value))
            else:
                merge_field(self._message, key, value, join_strings=True)


def _add_tool_calls(calls: list[Json], pieces: list[Json]) -> None:
    for piece in pieces:
        index = piece.pop("index", None)
        # Servers that do not number tool calls send each in one piece.
        if not isinstance(index, int) or index >= len(calls):
            calls.append(piece)
            continue
        for key, value in piece.items():
            merge_field(calls[index], key, value, join_strings=True)


def _choice(choice: Json) -> Message:
    message = _message(choice.get("message") or {}, role="assistant")
    message.finish_reason = choice.get("finish_reason")
    return message


def _message(message: Json, role: str = "user") -> Message:
    role, content = str(message.get("role") or role), message.get("content")
    parts = _parts(content)
    shown = content_text(content, parts)
    if role in ("tool", "function"):
        parts = [tool_response(message.get("tool_call_id") or message.get("name"), content)]
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        parts.insert(0, {"type": "reasoning", "content": reasoning})
    if refusal := message.get("refusal"):
        parts.append(text(refusal))
    if calls := message.get("tool_calls"):
        parts += [_tool_call(call) for call in items(calls)]
    if isinstance(function := message.get("function_call"), dict) and function:
        parts.append(_tool_call({"function": function}))
    return Message(role, parts, shown)


def _parts(content: Any) -> list[Part]:
    if isinstance(content, str):
        return [text(content)] if content else []
    return [_part(item) for item in items(content)]


def _part(item: Json) -> Part:
    match item.get("type"):
        case "text":
            return text(item.get("text"))
        case "refusal":
            return text(item.get("refusal"))
        case "image_url":
            image = item.get("image_url")
            return media("image", as_object(image).get("url", image))
        case "input_audio":
            return {"type": "blob", "modality": "audio"}
        case kind:
            return {**item, "type": str(kind)}


def _tool_call(call: Json) -> Part:
    function = as_object(call.get("function") or call.get("custom"))
    return tool_call(call.get("id"), function.get("name"), function.get("arguments", function.get("input")))


DIALECT = ApiDialect(LLM_CALL, "chat", "openai", "messages", prompt, answer, fold)
