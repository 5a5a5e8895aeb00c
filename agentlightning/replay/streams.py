"""Conversion of a recorded whole response to the stream of events that an SDK folds into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

JsonObject = dict[str, Any]


def to_event_stream(path: str, response: JsonObject, request: JsonObject) -> bytes:
    """Return the server-sent events of a response, in the API of `path`."""
    match path:
        case "messages":
            return b"".join(_named_event(event) for event in _anthropic_events(response))
        case "responses":
            return b"".join(_named_event(event) for event in _responses_events(response))
        case _:
            chunks = _chat_chunks(response, request) if path == "chat/completions" else [response]
            return b"".join(_event(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


def _event(data: JsonObject) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _named_event(data: JsonObject) -> bytes:
    return b"event: " + data["type"].encode() + b"\n" + _event(data)


def _chat_chunks(response: JsonObject, request: JsonObject) -> Iterator[JsonObject]:
    head = {key: response[key] for key in ("id", "created", "model", "system_fingerprint") if key in response}
    head |= {"object": "chat.completion.chunk"}
    for choice in response.get("choices", []):
        message = dict(choice.get("message") or {})
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        index = choice.get("index", 0)
        yield {**head, "choices": [{"index": index, "delta": message, "finish_reason": None}]}
        yield {**head, "choices": [{"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}]}
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": response.get("usage")}


def _responses_events(response: JsonObject) -> Iterator[JsonObject]:
    started: JsonObject = {**response, "status": "in_progress", "output": []}
    events: list[JsonObject] = [{"type": "response.created", "response": started}]
    for output_index, item in enumerate(response.get("output", [])):
        output = {"output_index": output_index}
        events.append({"type": "response.output_item.added", "item": {**item, "content": []}, **output})
        for content_index, part in enumerate(item.get("content") or []):
            content = {**output, "item_id": item.get("id"), "content_index": content_index}
            if part.get("type") == "output_text":
                empty = {**part, "text": ""}
                events.append({"type": "response.content_part.added", "part": empty, **content})
                events.append({"type": "response.output_text.delta", "delta": part["text"], "logprobs": [], **content})
                events.append({"type": "response.content_part.done", "part": part, **content})
        events.append({"type": "response.output_item.done", "item": item, **output})
    events.append({"type": "response.completed", "response": response})
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _anthropic_events(response: JsonObject) -> Iterator[JsonObject]:
    yield {"type": "message_start", "message": {**response, "content": [], "stop_reason": None}}
    for index, block in enumerate(response.get("content", [])):
        empty, deltas = _anthropic_deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": response.get("stop_reason"), "stop_sequence": response.get("stop_sequence")}
    yield {"type": "message_delta", "delta": stop, "usage": response.get("usage") or {"output_tokens": 0}}
    yield {"type": "message_stop"}


def _anthropic_deltas(block: JsonObject) -> tuple[JsonObject, list[JsonObject]]:
    """Split a content block into its empty start and the deltas that fill it."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            signature = block.get("signature")
            signed = [{"type": "signature_delta", "signature": signature}] if signature else []
            return {**block, "thinking": ""}, [{"type": "thinking_delta", "thinking": block["thinking"]}, *signed]
        case "tool_use":
            text = orjson.dumps(block["input"]).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
        case _:
            return dict(block), []
