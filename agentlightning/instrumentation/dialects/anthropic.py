"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from .base import Dialect, Json, Message, Part, as_object, content_text, items, media, text, tool_call, tool_response

_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def prompt(body: Json) -> list[Message]:
    """The system prompt, then the conversation."""
    system = body.get("system")
    before = [_message({"role": "system", "content": system})] if system else []
    return [*before, *(_message(message) for message in items(body.get("messages")))]


def answer(body: Json) -> list[Message]:
    """The one message."""
    if "content" not in body:
        return []
    message = _message({"role": "assistant", **body})
    stopped = body.get("stop_reason")
    message.finish_reason = _FINISH.get(str(stopped), stopped)
    return [message]


def fold(events: Iterable[Json]) -> Json:
    """The message whose events these are."""
    body: Json = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                body = {**(event.get("message") or {}), "content": []}
            case "content_block_start":
                body.setdefault("content", []).append(dict(event.get("content_block") or {}))
            case "content_block_delta":
                _add_delta(body["content"][event.get("index", -1)], event.get("delta") or {})
            case "message_delta":
                body.update(event.get("delta") or {})
                body["usage"] = {**(body.get("usage") or {}), **(event.get("usage") or {})}
            case "error":
                body["error"] = event.get("error")
            case _:
                pass
    for block in items(body.get("content")):
        if isinstance(pieces := block.pop("partial_json", None), str):
            block["input"] = _read(pieces)
    return body


def _add_delta(block: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key == "citation":
            block["citations"] = [*(block.get("citations") or []), value]
        elif key != "type" and isinstance(value, str):
            block[key] = (block.get(key) or "") + value


def _read(pieces: str) -> Any:
    try:
        return orjson.loads(pieces or "{}")
    except orjson.JSONDecodeError:
        return pieces


def _message(message: Json) -> Message:
    content = message.get("content")
    parts = [text(content)] if isinstance(content, str) else [_part(block) for block in items(content)]
    said = [block for block in items(content) if block.get("type") not in ("tool_use", "thinking")]
    spoken = [part for part in parts if part["type"] not in ("tool_call", "reasoning")]
    to_json = content if isinstance(content, str) else content_text(said, spoken) if said else None
    return Message(str(message.get("role") or "user"), parts, to_json)


def _part(block: Json) -> Part:
    match block.get("type"):
        case "text":
            return text(block.get("text"))
        case "tool_use":
            return tool_call(block.get("id"), block.get("name"), block.get("input"))
        case "tool_result":
            return tool_response(block.get("tool_use_id"), block.get("content"))
        case "thinking":
            return {"type": "reasoning", "content": block.get("thinking")}
        case "image":
            source = as_object(block.get("source"))
            if source.get("type") == "base64":
                return {"type": "blob", "modality": "image", "mime_type": source.get("media_type")}
            return media("image", source.get("url"))
        case kind:
            return {**block, "type": str(kind)}


DIALECT = Dialect("anthropic.messages", "chat", "anthropic", "messages", prompt, answer, fold)
