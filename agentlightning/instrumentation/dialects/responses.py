"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterable

from .base import (
    Dialect,
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
    """Instructions, then the input's items."""
    asked = body.get("input")
    instructions = body.get("instructions")
    before = [Message("system", [text(instructions)], instructions)] if isinstance(instructions, str) else []
    if isinstance(asked, str):
        return [*before, Message("user", [text(asked)], asked)]
    return [*before, *(_item(item, "user") for item in items(asked))]


def answer(body: Json) -> list[Message]:
    """The output's items as one message, as the other dialects have it."""
    said = [_item(item, "assistant") for item in items(body.get("output"))]
    if not said:
        return []
    contents = [message.content for message in said if message.content]
    parts = [part for message in said for part in message.parts]
    return [Message("assistant", parts, "".join(contents) if contents else None, _finish(body, parts))]


def fold(events: Iterable[Json]) -> Json:
    """The response whose events these are: the last one has it whole, an abandoned stream is put together."""
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
            said = output if isinstance(output, str) else to_json(output)
            return Message("tool", [tool_response(item.get("call_id"), output)], said)
        case "reasoning":
            thought = "".join(str(part.get("text") or "") for part in items(item.get("summary")))
            return Message("assistant", [{"type": "reasoning", "content": thought}])
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


def _finish(body: Json, parts: list[Part]) -> str | None:
    if any(part["type"] == "tool_call" for part in parts):
        return "tool_calls"
    if why := as_object(body.get("incomplete_details")).get("reason"):
        return "length" if why == "max_output_tokens" else str(why)
    return "stop" if body.get("status") == "completed" else None


DIALECT = Dialect("openai.responses", "chat", "openai", "input", prompt, answer, fold)
