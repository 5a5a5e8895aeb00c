"""Dialect for Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterable

from .base import (
    ApiDialect,
    Json,
    Message,
    Part,
    Texts,
    as_object,
    content_text,
    items,
    media,
    parse_json,
    text,
    tool_call,
    tool_response,
)

_FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def _prompt(body: Json) -> list[Message]:
    """Return the system prompt, if there is one, followed by the messages of the conversation."""
    system = body.get("system")
    first = [_message({"role": "system", "content": system})] if system else []
    return [*first, *(_message(message) for message in items(body.get("messages")))]


def _answer(body: Json) -> list[Message]:
    """Return a list with the response's only message, or an empty list if the response has no content."""
    if "content" not in body:
        return []
    message = _message({"role": "assistant", **body})
    reason = body.get("stop_reason")
    message.finish_reason = _FINISH_REASONS.get(str(reason), reason)
    return [message]


def _fold(events: Iterable[Json]) -> Json:
    """Combine the events of a streamed message into a response body."""
    body: Json = {}
    texts = Texts()
    for event in events:
        match event.get("type"):
            case "message_start":
                body = {**(event.get("message") or {}), "content": []}
            case "content_block_start":
                body.setdefault("content", []).append(dict(event.get("content_block") or {}))
            case "content_block_delta":
                _add_delta(body["content"][event.get("index", -1)], event.get("delta") or {}, texts)
            case "message_delta":
                body.update(event.get("delta") or {})
                if usage := event.get("usage"):
                    body["usage"] = body.get("usage") or {}
                    body["usage"].update(usage)
            case "error":
                body["error"] = event.get("error")
            case _:
                pass
    texts.join()
    for block in items(body.get("content")):
        if isinstance(pieces := block.pop("partial_json", None), str):
            block["input"] = parse_json(pieces or "{}")
    return body


def _add_delta(block: Json, delta: Json, texts: Texts) -> None:
    for key, value in delta.items():
        if key == "citation":
            block["citations"] = block.get("citations") or []
            block["citations"].append(value)
        elif key != "type" and isinstance(value, str):
            texts.append(block, key, value)


def _message(message: Json) -> Message:
    role, content = str(message.get("role") or "user"), message.get("content")
    if isinstance(content, str):
        return Message(role, [text(content)], content)
    blocks = items(content)
    parts = [_part(block) for block in blocks]
    shown = [block for block in blocks if block.get("type") not in ("tool_use", "thinking")]
    shown_parts = [part for part in parts if part["type"] not in ("tool_call", "reasoning")]
    return Message(role, parts, content_text(shown, shown_parts) if shown else None)


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


MESSAGES = ApiDialect("anthropic.messages", "chat", "anthropic", "messages", _prompt, _answer, _fold)
