"""Multi-turn token sequences: calls that continue each other, as one sequence of prompt and sampled token ids.

A call continues another if its prompt begins with that call's prompt and response, token id for token id. A
conversation that the server tokenized differently in a later turn stays separate: merging it would train on token ids
that were never sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .llm_call import LLMCall


@dataclass(frozen=True)
class TurnSequence:
    """Calls that continue each other, in order; a call that continues no other is a sequence of its own."""

    calls: list[LLMCall]

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """The prompt of the first call."""
        return self.calls[0].prompt_token_ids

    @property
    def token_ids(self) -> list[int] | None:
        """All tokens after the first prompt: those sampled, and between them those of later prompts."""
        last, prompt = self.calls[-1], self.prompt_token_ids
        if len(self.calls) == 1 or last.prompt_token_ids is None or prompt is None:
            return last.token_ids
        return [*last.prompt_token_ids[len(prompt) :], *(last.token_ids or [])]

    @property
    def sampled(self) -> list[int] | None:
        """A mask over `token_ids`: 1 for a token that the model sampled, 0 for a token of a prompt."""
        return self._align([[1] * len(call.token_ids or []) for call in self.calls], 0)

    @property
    def logprobs(self) -> list[float] | None:
        """The log probabilities of `token_ids`, 0.0 for tokens of a prompt; None if a call has none."""
        if any(call.logprobs is None for call in self.calls):
            return None
        return self._align([call.logprobs or [] for call in self.calls], 0.0)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages after those of the first prompt."""
        last = self.calls[-1]
        return [*last.messages[len(self.calls[0].messages) :], last.output[0]]

    def _align(self, values_by_call: list[list[Any]], prompt_value: Any) -> list[Any] | None:
        """Place the values of each call's sampled tokens at their positions in `token_ids`."""
        if self.token_ids is None:
            return None
        prompt_length = len(self.prompt_token_ids or [])
        aligned: list[Any] = []
        for call, values in zip(self.calls, values_by_call, strict=True):
            aligned += [prompt_value] * (len(call.prompt_token_ids or []) - prompt_length - len(aligned))
            aligned += values
        return aligned


def merge_turns(calls: Sequence[LLMCall]) -> list[TurnSequence]:
    """Group calls that continue each other, in the order of their first calls."""
    sequences: list[list[LLMCall]] = []
    for call in calls:
        previous = next((turns for turns in reversed(sequences) if _continues(call, turns[-1])), None)
        if previous is None:
            sequences.append([call])
        else:
            previous.append(call)
    return [TurnSequence(turns) for turns in sequences]


def _continues(call: LLMCall, previous: LLMCall) -> bool:
    if not (call.prompt_token_ids and previous.prompt_token_ids and previous.token_ids):
        return False
    context = [*previous.prompt_token_ids, *previous.token_ids]
    return call.prompt_token_ids[: len(context)] == context
