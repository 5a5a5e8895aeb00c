"""LLMCall: one call to a model, in the same form regardless of the library that recorded it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LLMCall:
    """The request and response of a call, and the spans that recorded it.

    Messages, output and tools are in OpenAI's chat format, whichever API was called. Fields that no span recorded are
    None or empty.
    """

    dialect: str
    """The format in which the most complete span recorded the call.

    One of wire, openinference, opentelemetry, indexed, logfire and langfuse.
    """
    operation: str = "chat"
    """chat, text_completion or embeddings."""
    model: str | None = None
    messages: list[Json] = field(default_factory=list[Json])
    tools: list[Json] | None = None
    output: list[Json] = field(default_factory=list[Json])
    """One assistant message for each choice in the response."""
    finish_reason: str | None = None
    """The finish reason of the first choice: stop, length, tool_calls, …"""
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """Token counts: prompt_tokens, completion_tokens, total_tokens."""
    response_id: str | None = None
    parameters: Json = field(default_factory=dict[str, Any])
    """The request's other parameters: temperature, max_tokens, …"""
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    """The token ids of the first choice. `logprobs` also belongs to the first choice."""
    logprobs: list[float] | None = None
    policy_version: str | None = None
    """The version of the model weights, if one was configured in the proxy."""
    error: str | None = None
    """The reason for the failure, if the call failed."""
    resent: int = 0
    """The number of earlier tries of this request."""

    span_ids: list[str] = field(default_factory=list[str])
    """The ids of the spans that recorded the call. The most complete span is first."""
    names: list[str] = field(default_factory=list[str])
    """The distinct names of these spans. If a later try succeeded, the names of failed tries are omitted."""
    trace_id: str = ""
    parent_id: str | None = None
    """The id of the parent of the outermost of these spans."""
    sequence_id: int = 0
    start_time: float | None = None
    end_time: float | None = None

    @property
    def answered(self) -> bool:
        """True if the model returned any output."""
        return bool(self.output)


_OF_FIRST = frozenset({"dialect", "operation", "error", "span_ids", "names", "parent_id", "sequence_id"})
"""Fields that `combine` does not fill in from the other views. `span_ids` and `names` are concatenated instead."""


def combine(views: Sequence[LLMCall]) -> LLMCall:
    """Combine views of the same call. Missing fields of the first view are filled in from the others, in order."""
    first, *others = views
    missing: dict[str, Any] = {}
    for name in (each.name for each in fields(LLMCall) if each.name not in _OF_FIRST):
        value = getattr(first, name)
        if value in (None, "", [], {}):
            found = (getattr(other, name) for other in others)
            missing[name] = next((other for other in found if other not in (None, [], {})), value)
    return replace(
        first,
        **missing,
        span_ids=_unique(span_id for view in views for span_id in view.span_ids),
        names=_unique(name for view in views for name in view.names),
    )


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
