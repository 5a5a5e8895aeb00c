"""Turns of one conversation as one sequence of token ids, as they were read and sampled.

A call continues another when its prompt begins with that call's prompt and answer, id for id. Only then are they one
sequence: a conversation that the server tokenized anew in another way stays apart, rather than being trained on ids
that were never sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .llm_call import LLMCall


@dataclass(frozen=True)
class Turns:
    """Calls that continue each other, the first one first; a call that continues none is alone."""

    calls: list[LLMCall]

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """What the first call was asked."""
        return self.calls[0].prompt_token_ids

    @property
    def token_ids(self) -> list[int] | None:
        """All that followed: what was sampled, and between it what was said to the model."""
        last, begun = self.calls[-1], self.calls[0].prompt_token_ids
        if len(self.calls) == 1 or last.prompt_token_ids is None or begun is None:
            return last.token_ids
        return [*last.prompt_token_ids[len(begun) :], *(last.token_ids or [])]

    @property
    def sampled(self) -> list[int] | None:
        """1 for each of `token_ids` that the model sampled, 0 for those it was told."""
        return self._spread([[1] * len(call.token_ids or []) for call in self.calls], 0)

    @property
    def logprobs(self) -> list[float] | None:
        """Of each of `token_ids`; 0.0 for those that were not sampled. None where a call has none."""
        if any(call.logprobs is None for call in self.calls):
            return None
        return self._spread([call.logprobs or [] for call in self.calls], 0.0)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that followed the first call's messages."""
        last = self.calls[-1]
        return [*last.messages[len(self.calls[0].messages) :], last.output[0]]

    def _spread(self, of_each: list[list[Any]], between: Any) -> list[Any] | None:
        """Values of each call's sampled tokens at their places among `token_ids`."""
        if self.token_ids is None:
            return None
        begun = len(self.prompt_token_ids or [])
        spread: list[Any] = []
        for call, values in zip(self.calls, of_each, strict=True):
            spread += [between] * (len(call.prompt_token_ids or []) - begun - len(spread))
            spread += values
        return spread


def turns(calls: Sequence[LLMCall]) -> list[Turns]:
    """Calls that continue each other together, in the order of their first ones."""
    found: list[list[LLMCall]] = []
    for call in calls:
        before = next((chain for chain in reversed(found) if _continues(call, chain[-1])), None)
        if before is None:
            found.append([call])
        else:
            before.append(call)
    return [Turns(chain) for chain in found]


def _continues(call: LLMCall, before: LLMCall) -> bool:
    if not (call.prompt_token_ids and before.prompt_token_ids and before.token_ids):
        return False
    so_far = [*before.prompt_token_ids, *before.token_ids]
    return call.prompt_token_ids[: len(so_far)] == so_far
