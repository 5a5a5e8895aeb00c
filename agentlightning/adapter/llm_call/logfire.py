"""Reader for Logfire's attributes: `request_data` contains the request, and `response_data` the response."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...instrumentation.dialects.base import as_object
from ...types import Span
from . import chat_format
from .attributes import object_in, usage
from .opentelemetry import build_call
from .view import Json, LLMCall

_PROMPT_KEYS = ("messages", "input", "prompt")


def read(span: Span) -> LLMCall | None:
    """Parse a span in which Logfire recorded an LLM call. Return None for any other span."""
    request, response = object_in(span.attributes, "request_data"), object_in(span.attributes, "response_data")
    if not any(key in request for key in _PROMPT_KEYS):
        return None
    call = build_call(
        span.attributes,
        dialect="logfire",
        messages=_messages(request),
        tools=chat_format.tools(request.get("tools")),
        output=_output(response),
    )
    return replace(call, model=request.get("model"), usage=usage(response.get("usage")))


def _messages(request: Json) -> list[Json]:
    instructions = [
        {"role": "system", "content": text} for key in ("system", "instructions") if (text := request.get(key))
    ]
    prompt: Any = next(request[key] for key in _PROMPT_KEYS if key in request)
    return chat_format.normalize([*instructions, *chat_format.conversation(prompt, "user")])


def _output(response: Json) -> list[Json]:
    text = response.get("combined_chunk_content") or response.get("text")
    return chat_format.conversation(as_object(response.get("message")) or text, "assistant")
