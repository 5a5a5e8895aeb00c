"""LLMCall: one call to a model, whoever saw it and however they wrote it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LLMCall:
    """What was asked, what was answered, and where that is on record.

    Messages, output and tools are in OpenAI's chat format, whatever API was called. What
    no span tells is empty or None.
    """

    dialect: str
    """The richest of the spellings it was read from: wire, openinference, opentelemetry, indexed, logfire, langfuse."""
    operation: str = "chat"
    """chat, text_completion or embeddings."""
    model: str | None = None
    messages: list[Json] = field(default_factory=list[Json])
    tools: list[Json] | None = None
    output: list[Json] = field(default_factory=list[Json])
    """An assistant message for each choice."""
    finish_reason: str | None = None
    """Of the first choice: stop, length, tool_calls, …"""
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """prompt_tokens, completion_tokens, total_tokens."""
    response_id: str | None = None
    parameters: Json = field(default_factory=dict[str, Any])
    """How the model was asked to answer: temperature, max_tokens, …"""
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    """Of the first choice, as `logprobs` is."""
    logprobs: list[float] | None = None
    policy_version: str | None = None
    """Which weights answered, where the proxy was told."""
    error: str | None = None
    """Why there is no answer."""
    resent: int = 0
    """How often the request had been sent before this one."""

    span_ids: list[str] = field(default_factory=list[str])
    """The spans it was seen through, the richest first."""
    names: list[str] = field(default_factory=list[str])
    """The names of those spans."""
    trace_id: str = ""
    parent_id: str | None = None
    """The span within which the call was made; that of the outermost of `span_ids`."""
    sequence_id: int = 0
    start_time: float | None = None
    end_time: float | None = None

    @property
    def answered(self) -> bool:
        """Whether the model said anything."""
        return bool(self.output)


# What is always the first reading's own, not filled in from others
_OWN = frozenset({"dialect", "operation", "error", "span_ids", "names", "parent_id", "sequence_id"})


def merged(readings: Sequence[LLMCall]) -> LLMCall:
    """One view of several readings of the same call: the first one's, completed from the others in turn."""
    first, *others = readings
    missing: dict[str, Any] = {}
    for name in (each.name for each in fields(LLMCall) if each.name not in _OWN):
        held = getattr(first, name)
        if held in (None, "", [], {}):
            missing[name] = next(
                (value for other in others if (value := getattr(other, name)) not in (None, [], {})), held
            )
    return replace(
        first,
        **missing,
        span_ids=_each_once(span_id for reading in readings for span_id in reading.span_ids),
        names=_each_once(name for reading in readings for name in reading.names),
    )


def _each_once(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
