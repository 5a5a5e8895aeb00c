"""Recorded answers as the streams they were: a whole body becomes the events that add up to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

JsonObject = dict[str, Any]


def events_of(path: str, response: JsonObject, request: JsonObject) -> bytes:
    """The event stream that an SDK folds into `response`."""
    match path:
        case "messages":
            return b"".join(_named(event) for event in _anthropic(response))
        case "responses":
            return b"".join(_named(event) for event in _responses(response))
        case _:
            chunks = _chat(response, request) if path == "chat/completions" else [response]
            return b"".join(_data(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


def _data(event: JsonObject) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _named(event: JsonObject) -> bytes:
    return b"event: " + event["type"].encode() + b"\n" + _data(event)


def _chat(response: JsonObject, request: JsonObject) -> Iterator[JsonObject]:
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


def _responses(response: JsonObject) -> Iterator[JsonObject]:
    begun: JsonObject = {**response, "status": "in_progress", "output": []}
    events: list[JsonObject] = [{"type": "response.created", "response": begun}]
    for output_index, item in enumerate(response.get("output", [])):
        place = {"output_index": output_index}
        events.append({"type": "response.output_item.added", "item": {**item, "content": []}, **place})
        for content_index, part in enumerate(item.get("content") or []):
            where = {**place, "item_id": item.get("id"), "content_index": content_index}
            if part.get("type") == "output_text":
                empty = {**part, "text": ""}
                events.append({"type": "response.content_part.added", "part": empty, **where})
                events.append({"type": "response.output_text.delta", "delta": part["text"], "logprobs": [], **where})
                events.append({"type": "response.content_part.done", "part": part, **where})
        events.append({"type": "response.output_item.done", "item": item, **place})
    events.append({"type": "response.completed", "response": response})
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def _anthropic(response: JsonObject) -> Iterator[JsonObject]:
    yield {"type": "message_start", "message": {**response, "content": [], "stop_reason": None}}
    for index, block in enumerate(response.get("content", [])):
        yield from _anthropic_block(index, block)
    ending = {"stop_reason": response.get("stop_reason"), "stop_sequence": response.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ending, "usage": response.get("usage") or {"output_tokens": 0}}
    yield {"type": "message_stop"}


def _anthropic_block(index: int, block: JsonObject) -> Iterator[JsonObject]:
    kind = block.get("type", "")
    begun, deltas = dict(block), list[JsonObject]()
    if kind in _DELTAS:
        delta, member = _DELTAS[kind]
        begun[member] = ""
        deltas.append({"type": delta, member: block[member]})
        if signature := block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": signature})
    elif kind == "tool_use":
        begun["input"] = {}
        deltas.append({"type": "input_json_delta", "partial_json": orjson.dumps(block["input"]).decode()})
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}
