"""TraceToMessages: converts the LLM calls of a trace to conversations for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from ..types import Span
from .base import TraceAdapter
from .llm_call import llm_calls


class Conversation(TypedDict):
    """One example in OpenAI's chat format. The last message is the model's response."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[Conversation]]):
    """Returns one conversation per successful LLM call, in call order."""

    def adapt(self, source: Sequence[Span], /) -> list[Conversation]:
        return [
            {"messages": [*call.messages, call.output[0]], "tools": call.tools}
            for call in llm_calls(source)
            if call.answered and not call.error
        ]
