"""Dialects for OpenAI's APIs, which most servers support: chat and text completions, embeddings and responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ...semconv import LLM_CALL
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
    text,
    to_json,
    tool_call,
    tool_response,
)

_WHOLE_FIELDS = frozenset({"role", "id", "type", "name"})
"""String fields that some servers repeat, unchanged, in every chunk of a stream. All other strings in the chunks are
pieces of longer texts and are joined."""

# Chat completions, embeddings, and legacy text completions (which many training servers still use)


def _chat_prompt(body: Json) -> list[Message]:
    return [_message(message) for message in items(body.get("messages"))]


def _chat_answer(body: Json) -> list[Message]:
    return [_choice(choice) for choice in items(body.get("choices"))]


def _completion_prompt(body: Json) -> list[Message]:
    return _user_messages(body.get("prompt"))


def _embedding_prompt(body: Json) -> list[Message]:
    return _user_messages(body.get("input"))


def _user_messages(value: Any) -> list[Message]:
    """Return one user message per text in `value`.

    If `value` contains anything else, such as token ids, return one message that contains all of it as JSON.
    """
    texts = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in texts):
        texts = [to_json(value)]
    return [Message("user", [text(each)], each) for each in texts]


def _completion_answer(body: Json) -> list[Message]:
    contents = [(str(choice.get("text") or ""), choice.get("finish_reason")) for choice in items(body.get("choices"))]
    return [Message("assistant", [text(content)], content, reason) for content, reason in contents]


def _fold_chat(events: Iterable[Json]) -> Json:
    return {**_fold_choices(events), "object": "chat.completion"}


def _fold_completion(events: Iterable[Json]) -> Json:
    body = _fold_choices(events)
    for choice in body["choices"]:
        choice["text"] = choice.pop("message").get("text") or ""
    return body


def _fold_choices(events: Iterable[Json]) -> Json:
    body: Json = {}
    choices: dict[int, list[Json]] = {}
    for event in events:
        chunks = event.pop("choices", None)
        # A null value does not replace the value from an earlier event.
        body.update({key: value for key, value in event.items() if value is not None or key not in body})
        for chunk in items(chunks):
            choices.setdefault(chunk.get("index") or 0, []).append(chunk)
    body["choices"] = [_folded_choice(index, chunks) for index, chunks in sorted(choices.items())]
    return body


def _folded_choice(index: int, chunks: list[Json]) -> Json:
    message: Json = {}
    choice: Json = {"index": index, "message": message}
    texts = Texts()
    for chunk in chunks:
        for key, value in chunk.items():
            if key == "delta":
                _add_delta(message, as_object(value), texts)
            elif key == "text":
                _add_delta(message, {key: value}, texts)
            elif key != "index":
                _merge_field(choice, key, value)
    texts.join()
    return choice


def _add_delta(message: Json, delta: Json, texts: Texts) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            _add_tool_calls(message.setdefault(key, []), items(value), texts)
        else:
            _merge_field(message, key, value, texts)


def _merge_field(target: Json, key: str, value: Any, texts: Texts | None = None) -> None:
    """Merge a field from a chunk into `target`.

    Lists are extended, objects are merged, and strings are added to `texts`, if given. Any other value replaces the
    earlier one, unless it is None.
    """
    current = target.get(key)
    if isinstance(value, list) and isinstance(current, list):
        current.extend(cast("list[Any]", value))
    elif isinstance(value, dict) and isinstance(current, dict):
        for inner, more in as_object(value).items():
            _merge_field(as_object(current), inner, more, texts)
    elif texts is not None and isinstance(value, str) and key not in _WHOLE_FIELDS:
        texts.append(target, key, value)
    elif value is not None or key not in target:
        target[key] = value


def _add_tool_calls(calls: list[Json], pieces: list[Json], texts: Texts) -> None:
    for piece in pieces:
        index = piece.pop("index", None)
        # Servers that do not send an index for tool calls send each tool call in one piece.
        if not isinstance(index, int) or index >= len(calls):
            calls.append(piece)
            continue
        for key, value in piece.items():
            _merge_field(calls[index], key, value, texts)


def _choice(choice: Json) -> Message:
    message = _message(choice.get("message") or {}, role="assistant")
    message.finish_reason = choice.get("finish_reason")
    return message


def _message(message: Json, role: str = "user") -> Message:
    role, content = str(message.get("role") or role), message.get("content")
    if isinstance(content, str):
        parts, shown = [text(content)] if content else [], content
    else:
        parts = [_chat_part(item) for item in items(content)]
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


def _chat_part(item: Json) -> Part:
    match item.get("type"):
        case "text" | "refusal" as kind:
            return text(item.get(kind))
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


# Responses


def _response_prompt(body: Json) -> list[Message]:
    prompt = body.get("input")
    instructions = body.get("instructions")
    first = [Message("system", [text(instructions)], instructions)] if isinstance(instructions, str) else []
    if isinstance(prompt, str):
        return [*first, Message("user", [text(prompt)], prompt)]
    return [*first, *(_item(item, "user") for item in items(prompt))]


def _response_answer(body: Json) -> list[Message]:
    """Return a list with one message that combines all output items, or an empty list if there are none."""
    messages = [_item(item, "assistant") for item in items(body.get("output"))]
    if not messages:
        return []
    contents = [message.content for message in messages if message.content]
    parts = [part for message in messages for part in message.parts]
    return [Message("assistant", parts, "".join(contents) if contents else None, _finish_reason(body, parts))]


def _fold_response(events: Iterable[Json]) -> Json:
    """Return the response from the final event. If that event is missing, build it from the earlier events."""
    body: Json = {}
    output: dict[int, Json] = {}
    texts = Texts()
    for event in events:
        kind = str(event.get("type"))
        if isinstance(event.get("response"), dict):
            body.update(event["response"])
        elif kind in ("response.output_item.added", "response.output_item.done"):
            output[event.get("output_index", 0)] = event.get("item") or {}
        elif kind == "response.output_text.delta":
            item = output.setdefault(event.get("output_index", 0), {"type": "message"})
            texts.append(_content_part(item, event.get("content_index", 0)), "text", str(event.get("delta") or ""))
        elif kind == "response.function_call_arguments.delta":
            item = output.setdefault(event.get("output_index", 0), {"type": "function_call"})
            texts.append(item, "arguments", str(event.get("delta") or ""))
        elif kind == "error":
            body["error"] = event.get("error") or event
    texts.join()
    if not body.get("output"):
        body["output"] = [output[index] for index in sorted(output)]
    return body


def _content_part(item: Json, index: int) -> Json:
    contents: list[Json] = item.setdefault("content", [])
    if index >= len(contents):  # parts arrive in order, so add only one, even if the index is huge
        contents.append({"type": "output_text", "text": ""})
        index = -1
    return contents[index]


def _item(item: Json, role: str) -> Message:
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            parts = [text(content)] if isinstance(content, str) else [_response_part(part) for part in items(content)]
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


def _response_part(part: Json) -> Part:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return text(part.get("text"))
        case "refusal" as kind:
            return text(part.get(kind))
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


CHAT = ApiDialect(LLM_CALL, "chat", "openai", "messages", _chat_prompt, _chat_answer, _fold_chat)
COMPLETIONS = ApiDialect(
    "openai.completion", "text_completion", "openai", "prompt", _completion_prompt, _completion_answer, _fold_completion
)
# A response with embeddings contains no messages and is never streamed. Its vectors are recorded only in the raw body.
EMBEDDINGS = ApiDialect(
    "openai.embeddings", "embeddings", "openai", "input", _embedding_prompt, lambda body: [], lambda events: {}
)
RESPONSES = ApiDialect(
    "openai.responses", "chat", "openai", "input", _response_prompt, _response_answer, _fold_response
)
