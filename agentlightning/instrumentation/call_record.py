"""Decoding of LLM calls: the wire tap saves request and response bodies, which are converted to span attributes here.

The agent's thread normally only saves the bodies, because decoding them takes several times longer than saving them.
`decode_call` then runs later, in the export thread. If span processors from outside this package also read the span,
`decode_call` runs in the agent's thread, before the span ends.

Messages are recorded in two formats, for different readers: as one attribute per field (`gen_ai.prompt.0.content`), and
as JSON in OpenTelemetry's format (`gen_ai.input.messages`). The span also contains the bodies themselves. If a body is
larger than `MAX_BODY_BYTES`, its long texts are truncated; if it is still too large, it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import orjson

from .. import semconv
from ..errors import TooLarge
from ..payload import MAX_VALUES, check_size
from . import sse
from .dialects import ApiDialect, Message, dialect_of
from .dialects.base import Json, as_object, items, to_json

UNDECODED: Final = "agentlightning.unread"
"""Span attribute that is True if the bodies have not been decoded yet. It is removed before the span is stored."""
RAW_EVENTS: Final = "agentlightning.response.events"
"""Span attribute with the raw events of a streamed response. Before the span is stored, the events are combined into a
response body that replaces this attribute."""
ERROR_MESSAGE: Final = "error.message"
"""Span attribute with the error message from the model server's response."""

MAX_BODY_BYTES = 2_000_000
"""Maximum size in bytes of a body that is recorded unchanged. In a larger body, long texts are truncated."""
MAX_TEXT_LENGTH = 4_000
"""Maximum number of characters that are kept from each text in a body that is too large. This is enough to recognize an
image or a document."""

_RECORDED = ("temperature", "top_p", "top_k", "max_tokens", "frequency_penalty", "presence_penalty", "seed")
_REQUEST_PARAMETERS = {
    **{name: name for name in _RECORDED},
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n": "choice.count",
}


def decode_call(raw: Json) -> Json:
    """Return the final attributes of a call's span, including those decoded from the bodies in `raw`.

    `raw` contains the span's attributes before decoding. Never raises: an error is recorded in the attribute
    `agentlightning.capture_error`.
    """
    attributes = {key: value for key, value in raw.items() if key not in (UNDECODED, RAW_EVENTS)}
    try:
        request = parse_object(raw[semconv.REQUEST])
        if dialect := dialect_of(raw["url.path"], request):
            attributes = {**request_attributes(dialect, request), **attributes}
            attributes.update(_decoded_response(dialect, raw))
    except Exception as error:
        attributes[semconv.CAPTURE_ERROR] = f"{type(error).__name__}: {error}"
    if not attributes.get(semconv.INCOMPLETE):
        attributes.pop(semconv.INCOMPLETE, None)
    return attributes


def request_attributes(dialect: ApiDialect, body: Json) -> Json:
    """Return the span attributes decoded from a request body."""
    messages = dialect.prompt(body)
    attributes: Json = {
        **_indexed(semconv.GEN_AI_PROMPT, messages),
        semconv.GEN_AI_INPUT_MESSAGES: _as_opentelemetry(messages),
        semconv.GEN_AI_OPERATION_NAME: dialect.operation,
        semconv.GEN_AI_PROVIDER_NAME: dialect.provider,
        semconv.GEN_AI_REQUEST_MODEL: body.get("model"),
    }
    for parameter, name in _REQUEST_PARAMETERS.items():
        if isinstance(value := body.get(parameter), (int, float)):
            attributes[f"{semconv.GEN_AI_REQUEST}.{name}"] = value
    if tools := body.get("tools"):
        attributes[semconv.GEN_AI_TOOL_DEFINITIONS] = to_json(tools)
    return {key: value for key, value in attributes.items() if value is not None}


def response_attributes(dialect: ApiDialect, body: Json) -> Json:
    """Return the span attributes decoded from a response body."""
    messages = dialect.answer(body)
    reasons = [message.finish_reason for message in messages if message.finish_reason]
    attributes: Json = {
        **_indexed(semconv.GEN_AI_COMPLETION, messages),
        semconv.GEN_AI_OUTPUT_MESSAGES: _as_opentelemetry(messages) if messages else None,
        semconv.GEN_AI_RESPONSE_ID: body.get("id"),
        semconv.GEN_AI_RESPONSE_MODEL: body.get("model"),
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: reasons or None,
        **_usage(body.get("usage")),
        **_tokens(body),
    }
    return {key: value for key, value in attributes.items() if value is not None}


def parse_object(text: str | bytes, values: int = MAX_VALUES) -> Json:
    """Parse `text` as a JSON object. Return an empty dict if it is anything else or has more than `values` values."""
    try:
        check_size(text, values=values)
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, TooLarge):
        return {}
    return cast("Json", value) if isinstance(value, dict) else {}


def error_message(body: Json) -> str | None:
    """Return the error message from a response body, or None if the body does not contain an error."""
    error: Any = body.get("error")
    return str(as_object(error).get("message", error)) if error else None


def cut_to_size(body: bytes) -> bytes:
    """Return the JSON body, with its long texts truncated if it is larger than `MAX_BODY_BYTES`.

    Returns empty bytes if the body is too large and cannot be parsed, has more than `MAX_VALUES` values, or is still
    too large after the truncation.
    """
    if len(body) <= MAX_BODY_BYTES:
        return body
    try:
        check_size(body)
        cut = orjson.dumps(_cut(orjson.loads(body)))
    except (orjson.JSONDecodeError, RecursionError, TooLarge):
        return b""
    return cut if len(cut) <= MAX_BODY_BYTES else b""


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
        return f"{value[:MAX_TEXT_LENGTH]}… ({len(value) - MAX_TEXT_LENGTH} characters left out)"
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_cut(item) for item in cast("list[Any]", value)]
    return value


def _decoded_response(dialect: ApiDialect, raw: Json) -> Json:
    if RAW_EVENTS not in raw:
        text = raw.get(semconv.RESPONSE)
        return _body_attributes(dialect, text.encode()) if text else {}
    stream = raw[RAW_EVENTS].encode()
    events = sse.events(stream)
    attributes = _body_attributes(dialect, orjson.dumps(dialect.fold(events)))
    # SDKs stop reading after the server's final event and close the stream. Such a stream is complete.
    if sse.has_ended(stream, events[-1] if events else None):
        attributes[semconv.INCOMPLETE] = False
    return attributes


def _body_attributes(dialect: ApiDialect, raw: bytes) -> Json:
    body = parse_object(raw, sse.MAX_STREAM_VALUES)
    if not body:
        problem = "is not a JSON object or has too many JSON values"
        return {semconv.CAPTURE_ERROR: f"the response of {len(raw)} bytes {problem}"}
    recorded = cut_to_size(raw)
    if message := error_message(body):
        return {semconv.RESPONSE: recorded.decode(), ERROR_MESSAGE: message}
    if recorded is not raw:
        body = parse_object(recorded) or {key: body[key] for key in ("id", "model", "usage") if key in body}
    attributes = {**response_attributes(dialect, body), semconv.RESPONSE: recorded.decode()}
    if not recorded:
        attributes[semconv.CAPTURE_ERROR] = f"a body of {len(raw)} bytes is too large to record"
    return attributes


def _as_opentelemetry(messages: list[Message]) -> str:
    fields = ("role", "parts", "finish_reason")
    written = [{field: getattr(message, field) for field in fields} for message in messages]
    return to_json([{field: value for field, value in each.items() if value is not None} for each in written])


def _indexed(prefix: str, messages: list[Message]) -> Json:
    return {f"{prefix}.{n}.{key}": value for n, message in enumerate(messages) for key, value in _fields(message)}


def _fields(message: Message) -> Iterator[tuple[str, str]]:
    yield "role", message.role
    if message.content is not None:
        yield "content", message.content
    if message.finish_reason is not None:
        yield "finish_reason", message.finish_reason
    tool_calls = 0
    for part in message.parts:
        if part["type"] == "tool_call":
            prefix, arguments = f"tool_calls.{tool_calls}", part["arguments"]
            yield f"{prefix}.id", str(part["id"])
            yield f"{prefix}.name", str(part["name"])
            yield f"{prefix}.arguments", arguments if isinstance(arguments, str) else to_json(arguments)
            tool_calls += 1
        elif part["type"] == "tool_call_response" and part.get("id"):
            yield "tool_call_id", str(part["id"])


def _usage(usage: Any) -> Json:
    counts = as_object(usage)
    prompt = counts.get("prompt_tokens", counts.get("input_tokens"))
    completion = counts.get("completion_tokens", counts.get("output_tokens"))
    total = counts.get("total_tokens")
    if total is None and isinstance(prompt, int) and isinstance(completion, int):
        total = prompt + completion
    return {
        semconv.GEN_AI_USAGE_INPUT_TOKENS: prompt,
        semconv.GEN_AI_USAGE_PROMPT_TOKENS: prompt,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: completion,
        semconv.GEN_AI_USAGE_COMPLETION_TOKENS: completion,
        semconv.GEN_AI_USAGE_TOTAL_TOKENS: total,
    }


def _tokens(body: Json) -> Json:
    """Return the token ids of the prompt and of the first choice, and the log probabilities of that choice.

    Only some servers send these values, and only if the request asks for them.
    """
    choice = next(iter(items(body.get("choices"))), Json())
    found = {
        semconv.PROMPT_TOKEN_IDS: body.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        semconv.TOKEN_IDS: choice.get("token_ids"),
        semconv.LOGPROBS: choice.get("logprobs"),
    }
    return {name: to_json(value) for name, value in found.items() if value}
