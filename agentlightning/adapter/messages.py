"""The base classes of all adapters, and TraceToMessages, which converts LLM calls to examples for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypedDict, TypeVar

from ..types import Span
from .llm_call import llm_calls

From = TypeVar("From", contravariant=True)
To = TypeVar("To", covariant=True)


class Adapter(Generic[From, To]):
    """Base class for converters from one kind of data to another."""

    def adapt(self, source: From, /) -> To:
        """Convert `source`."""
        raise NotImplementedError

    def __call__(self, source: From, /) -> To:
        return self.adapt(source)


class TraceAdapter(Adapter[Sequence[Span], To]):
    """Base class for adapters that convert the spans of one attempt.

    Pass the spans in the order in which the store returns them.
    """


class Conversation(TypedDict):
    """One example for fine-tuning, in OpenAI's chat format. The last message is the model's response."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[Conversation]]):
    """Converts each successful LLM call to a conversation, in call order. Only the first choice is used."""

    def adapt(self, source: Sequence[Span], /) -> list[Conversation]:
        return [
            {"messages": [*call.messages, call.output[0]], "tools": call.tools}
            for call in llm_calls(source)
            if call.answered and not call.error
        ]
