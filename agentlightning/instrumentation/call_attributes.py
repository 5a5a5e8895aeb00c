"""Span attributes of an LLM call, derived from the bodies of its request and response.

Messages are written twice, for two kinds of readers: indexed (`gen_ai.prompt.0.content`), and as OpenTelemetry's JSON
(`gen_ai.input.messages`). The span has the raw bodies too, so nothing is lost that these attributes leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import semconv
from .dialects import ApiDialect, Message
from .dialects.base import Json, as_object, items, to_json

_REQUEST_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "n": "choice.count",
}


def of_request(dialect: ApiDialect, body: Json) -> Json:
    """Return the attributes that the request body gives."""
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


def of_response(dialect: ApiDialect, body: Json) -> Json:
    """Return the attributes that the response body adds."""
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


def _as_opentelemetry(messages: list[Message]) -> str:
    return to_json(
        [
            {"role": each.role, "parts": each.parts}
            | ({} if each.finish_reason is None else {"finish_reason": each.finish_reason})
            for each in messages
        ]
    )


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
    """Token ids and log probabilities of the first choice, which training servers return on request."""
    choice = next(iter(items(body.get("choices"))), Json())
    found = {
        semconv.PROMPT_TOKEN_IDS: body.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        semconv.TOKEN_IDS: choice.get("token_ids"),
        semconv.LOGPROBS: choice.get("logprobs"),
    }
    return {name: to_json(value) for name, value in found.items() if value}
