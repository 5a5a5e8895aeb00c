"""OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterable

from .base import (
    ApiDialect,
    Json,
    Message,
    Part,
    as_object,
    content_text,
    items,
    media,
    text,
    to_json,
    tool_call,
    tool_response,
)


def prompt(body: Json) -> list[Message]:
    """Return the instructions, then the items of the input."""
    prompt = body.get("input")
    instructions = body.get("instructions")
    first = [Message("system", [text(instructions)], instructions)] if isinstance(instructions, str) else []
    if isinstance(prompt, str):
        return [*first, Message("user", [text(prompt)], prompt)]
    return [*first, *(_item(item, "user") for item in items(prompt))]


def answer(body: Json) -> list[Message]:
    """Return the items of the output as one message, like the other dialects."""
    messages = [_item(item, "assistant") for item in items(body.get("output"))]
    if not messages:
        return []
    contents = [message.content for message in messages if message.content]
    parts = [part for message in messages for part in message.parts]
    return [Message("assistant", parts, "".join(contents) if contents else None, _finish_reason(body, parts))]


def fold(events: Iterable[Json]) -> Json:
    """Return the response of the last event; combine the events of an abandoned stream."""
    body: Json = {}
    output: dict[int, Json] = {}
    for event in events:
        kind = str(event.get("type"))
        if isinstance(event.get("response"), dict):
            body = {**body, **event["response"]}
        elif kind in ("response.output_item.added", "response.output_item.done"):
            output[event.get("output_index", 0)] = event.get("item") or {}
        elif kind == "response.output_text.delta":
            _add_text(output.setdefault(event.get("output_index", 0), {"type": "message"}), event)
        elif kind == "response.function_call_arguments.delta":
            item = output.setdefault(event.get("output_index", 0), {"type": "function_call"})
            item["arguments"] = item.get("arguments", "") + str(event.get("delta") or "")
        elif kind == "error":
            body["error"] = event.get("error") or event
    if not body.get("output"):
        body["output"] = [output[index] for index in sorted(output)]
    return body


def _add_text(item: Json, event: Json) -> None:
    contents: list[Json] = item.setdefault("content", [])
    index = event.get("content_index", 0)
    while len(contents) <= index:
        contents.append({"type": "output_text", "text": ""})
    contents[index]["text"] = contents[index].get("text", "") + str(event.get("delta") or "")


def _item(item: Json, role: str) -> Message:
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            parts = [text(content)] if isinstance(content, str) else [_part(part) for part in items(content)]
            return Message(str(item.get("role") or role), parts, content_text(content, parts))
        case "function_call" | "custom_tool_call":
            arguments = item.get("arguments", item.get("input"))
            return Message("assistant", [tool_call(item.get("call_id"), item.get("name"), arguments)])
        case "function_call_output" | "custom_tool_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else to_json(output)
            return Message("tool", [tool_response(item.get("call_id"), output)], content)
        case "reasoning":
            reasoning = "".join(str(part.get("text") or "") for part in items(item.get("summary")))
            return Message("assistant", [{"type": "reasoning", "content": reasoning}])
        case kind:
            return Message(role, [{**item, "type": str(kind)}])


def _part(part: Json) -> Part:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return text(part.get("text"))
        case "refusal":
            return text(part.get("refusal"))
        case "input_image":
            return media("image", part.get("image_url") or part.get("file_id"))
        case kind:
            return {**part, "type": str(kind)}


def _finish_reason(body: Json, parts: list[Part]) -> str | None:
    if any(part["type"] == "tool_call" for part in parts):
        return "tool_calls"
    if reason := as_object(body.get("incomplete_details")).get("reason"):
        return "length" if reason == "max_output_tokens" else str(reason)
    return "stop" if body.get("status") == "completed" else None


DIALECT = ApiDialect("openai.responses", "chat", "openai", "input", prompt, answer, fold)
