"""Cassette: a rollout's recorded model calls, and a server that returns their responses during a replay."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, cast

import orjson
from aiohttp import web

from .. import semconv
from ..adapter.llm_call.attributes import object_in
from ..redaction import redact
from ..types import Span

JsonObject = dict[str, Any]

MAX_BODY: Final = 64 * 1024 * 1024
"""Maximum size in bytes of a request to the replay server."""
_NOT_COMPARED: Final = {"return_token_ids", "logprobs", "top_logprobs", "user", "metadata"}
"""Request fields that are not compared, because they do not affect what the model generates."""
_MISSING: Final = object()


@dataclass(frozen=True)
class RecordedCall:
    """One successful call to a model."""

    path: str
    """The part of the URL path after `/v1/`, such as `chat/completions`."""
    request: JsonObject
    response: JsonObject
    """The complete response, even if it was originally streamed."""


class Cassette:
    """Recorded calls in their original order. Each response is returned only once."""

    def __init__(self, calls: Iterable[RecordedCall]) -> None:
        self.calls = list(calls)
        self.unused = list(self.calls)
        """The recorded calls whose responses have not been returned yet."""
        self.difference: str | None = None
        """Description of the first call that did not match an unused recorded call, or None if all have matched."""

    @classmethod
    def from_spans(cls, spans: Iterable[Span]) -> Cassette:
        """Return a cassette with the successful calls in an attempt's spans.

        A call that is recorded in two spans is included once.
        """
        calls: dict[str, RecordedCall] = {}
        for number, span in enumerate(spans):
            request, response = (object_in(span.attributes, name) for name in (semconv.REQUEST, semconv.RESPONSE))
            if request and response and not response.get("error"):
                call = RecordedCall(_api_path(str(span.attributes.get("url.path", ""))), request, response)
                calls.setdefault(str(response.get("id") or f"#{number}"), call)
        return cls(calls.values())

    @property
    def used(self) -> int:
        """The number of responses returned so far."""
        return len(self.calls) - len(self.unused)

    def response_to(self, path: str, request: JsonObject) -> JsonObject | None:
        """Return the recorded response to a call, or None if none of the unused recorded calls matches it.

        The first call without a match is described in `difference`.
        """
        # API keys were removed from the recorded requests, so remove them here too before the comparison.
        redacted = orjson.loads(redact(json.dumps(request)))
        for index, call in enumerate(self.unused):
            if call.path == path and first_difference(call.request, redacted) is None:
                return self.unused.pop(index).response
        self.difference = self.difference or self._describe_mismatch(path, redacted)
        return None

    def _describe_mismatch(self, path: str, request: JsonObject) -> str:
        number = self.used + 1
        if not self.unused:
            return f"call {number}, to {path}, was not recorded: the recording has {len(self.calls)} calls"
        expected = self.unused[0]
        if expected.path != path:
            return f"call {number} goes to {path}, but the recorded call went to {expected.path}"
        return f"call {number} differs: {first_difference(expected.request, request)}"


def first_difference(recorded: Any, sent: Any, path: str = "") -> str | None:
    """Describe the first difference between two JSON values, or return None if they are equal.

    `path` is the position of the two values in the request; it is empty for the request itself. The request fields in
    `_NOT_COMPARED` are ignored.
    """
    if isinstance(recorded, dict) and isinstance(sent, dict):
        old, new = cast("JsonObject", recorded), cast("JsonObject", sent)
        names = [name for name in {**old, **new} if path or name not in _NOT_COMPARED]
        pairs: Iterable[tuple[object, Any, Any]] = ((n, old.get(n, _MISSING), new.get(n, _MISSING)) for n in names)
    elif isinstance(recorded, list) and isinstance(sent, list):
        both = zip_longest(cast("list[Any]", recorded), cast("list[Any]", sent), fillvalue=_MISSING)
        pairs = ((index, *values) for index, values in enumerate(both))
    else:
        return None if recorded == sent else f"{path} was {_format(recorded)}, is {_format(sent)}"
    differences = (first_difference(old, new, f"{path}.{name}" if path else str(name)) for name, old, new in pairs)
    return next(filter(None, differences), None)


def _format(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:120] + "…"


def _api_path(url_path: str) -> str:
    # The part after the last `/v1/`, or the whole path if it does not contain `/v1/`.
    return (url_path.rpartition("/v1/")[2] or url_path).strip("/")


# Replay server


@asynccontextmanager
async def serve_cassette(cassette: Cassette) -> AsyncGenerator[str]:
    """Serve the responses in a cassette over HTTP until the block ends. Yields the base URL, which ends in `/v1`."""

    async def respond(request: web.Request) -> web.Response:
        path, body = _api_path(request.path), await request.json()
        response = cassette.response_to(path, body)
        if response is None:
            # Respond with status 400, because SDKs do not retry requests that fail with this status.
            error: JsonObject = {"type": "replay", "message": f"replay: {cassette.difference}"}
            return web.json_response({"type": "error", "error": error}, status=400)
        if body.get("stream"):
            return web.Response(body=_to_event_stream(path, response, body), content_type="text/event-stream")
        return web.json_response(response)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def _to_event_stream(path: str, response: JsonObject, request: JsonObject) -> bytes:
    """Convert a complete response to an equivalent stream of server-sent events for the API at `path`."""
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
    """Return a copy of an Anthropic content block without its content, and the deltas that add the content."""
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
