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
    choices: dict[int, Json] = {}
    for event in events:
        for key, value in event.items():
            if key != "choices" and (value is not None or key not in body):
                body[key] = value
        for piece in items(event.get("choices")):
            index = piece.get("index") or 0
            _add_piece(choices.setdefault(index, {"index": index, "message": {}}), piece)
    body["object"] = "chat.completion"
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _add_piece(choice: Json, piece: Json) -> None:
    for key, value in piece.items():
        if key == "delta":
            _merge(choice["message"], as_object(value))
        elif key != "index":
            merge_extra(choice, key, value)


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
    written = content_text(content, said)
    if role in ("tool", "function"):
        said = [tool_response(message.get("tool_call_id") or message.get("name"), content)]
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        said.insert(0, {"type": "reasoning", "content": thought})
    if refusal := message.get("refusal"):
        said.append(text(refusal))
    return Message(role, said + _tool_calls(message), written)


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
