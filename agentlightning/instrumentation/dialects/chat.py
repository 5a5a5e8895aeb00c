"""OpenAI's chat completions, which most servers speak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ...semconv import LLM_CALL
from .base import Dialect, Json, Message, Part, as_object, content_text, items, media, text, tool_call, tool_response

_SET_ONCE = frozenset({"role", "id", "type", "name"})
"""Fields of a delta that are given whole, by some servers in every chunk; all other texts are pieces."""


def prompt(body: Json) -> list[Message]:
    """The conversation so far."""
    return [_message(message) for message in items(body.get("messages"))]


def answer(body: Json) -> list[Message]:
    """One message for each choice."""
    return [_choice(choice) for choice in items(body.get("choices"))]


def fold(events: Iterable[Json]) -> Json:
    """The completion whose chunks these are."""
    body: Json = {}
    choices: dict[int, _Folded] = {}
    for event in events:
        pieces = event.pop("choices", None)
        update(body, event)
        for piece in items(pieces):
            index = piece.get("index") or 0
            if index not in choices:
                choices[index] = _Folded(index)
            choices[index].add(piece)
    body["object"] = "chat.completion"
    body["choices"] = [choices[index].whole() for index in sorted(choices)]
    return body


def update(body: Json, event: Json) -> None:
    """Take over what a later event says, but not that it says nothing."""
    if None in event.values():
        event = {key: value for key, value in event.items() if value is not None or key not in body}
    body.update(event)


class _Folded:
    """A choice, as far as its chunks have come."""

    def __init__(self, index: int) -> None:
        self._choice: Json = {"index": index, "message": {}}
        self._texts: dict[str, list[str]] = {}
        """Pieces are joined once, at the end: answers of ten thousand chunks are not rare."""

    def add(self, piece: Json) -> None:
        choice = self._choice
        for key, value in piece.items():
            if key == "delta":
                self._add_delta(as_object(value))
            elif value is None:
                choice.setdefault(key, None)
            elif key != "index":
                merge_extra(choice, key, value)

    def whole(self) -> Json:
        self._choice["message"].update({key: "".join(pieces) for key, pieces in self._texts.items()})
        return self._choice

    def _add_delta(self, delta: Json) -> None:
        texts = self._texts
        for key, value in delta.items():
            if key in texts and isinstance(value, str):
                texts[key].append(value)
            elif isinstance(value, str) and key not in _SET_ONCE:
                texts[key] = [value]
            elif value is not None or key not in self._choice["message"]:
                _merge(self._choice["message"], {key: value})


def merge_extra(choice: Json, key: str, value: Any) -> None:
    """Add a chunk's log probabilities, token ids and the like to what earlier chunks had of them."""
    held = choice.get(key)
    if isinstance(value, list) and isinstance(held, list):
        held.extend(cast("list[Any]", value))
    elif isinstance(value, dict) and isinstance(held, dict):
        for inner, more in as_object(value).items():
            merge_extra(as_object(held), inner, more)
    elif value is not None or key not in choice:
        choice[key] = value


def _merge(held: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            _merge_tool_calls(held.setdefault(key, []), items(value))
        elif isinstance(value, dict) and isinstance(held.get(key), dict):
            _merge(held[key], as_object(value))
        elif isinstance(value, str) and isinstance(held.get(key), str) and key not in _SET_ONCE:
            held[key] += value
        elif isinstance(value, list) and isinstance(held.get(key), list):
            held[key].extend(value)
        elif value is not None or key not in held:
            held[key] = value


def _merge_tool_calls(held: list[Json], pieces: list[Json]) -> None:
    for piece in pieces:
        index = piece.get("index")
        # Servers that do not number tool calls send each in one piece.
        if not isinstance(index, int) or index >= len(held):
            held.append({key: value for key, value in piece.items() if key != "index"})
        else:
            _merge(held[index], {key: value for key, value in piece.items() if key != "index"})


def _choice(choice: Json) -> Message:
    message = _message(choice.get("message") or {}, role="assistant")
    message.finish_reason = choice.get("finish_reason")
    return message


def _message(message: Json, role: str = "user") -> Message:
    role, content = str(message.get("role") or role), message.get("content")
    said = _parts(content)
    to_json = content_text(content, said)
    if role in ("tool", "function"):
        said = [tool_response(message.get("tool_call_id") or message.get("name"), content)]
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        said.insert(0, {"type": "reasoning", "content": thought})
    if refusal := message.get("refusal"):
        said.append(text(refusal))
    return Message(role, said + _tool_calls(message), to_json)


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


def _tool_calls(message: Json) -> list[Part]:
    calls = items(message.get("tool_calls"))
    if function := as_object(message.get("function_call")):
        calls = [*calls, {"function": function}]
    return [_tool_call(call) for call in calls]


def _tool_call(call: Json) -> Part:
    asked = as_object(call.get("function") or call.get("custom"))
    return tool_call(call.get("id"), asked.get("name"), asked.get("arguments", asked.get("input")))


DIALECT = Dialect(LLM_CALL, "chat", "openai", "messages", prompt, answer, fold)
