"""TracerTraceToTriplet: converts the LLM calls of a trace to (prompt, response, reward) triplets with token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from ..errors import InvalidInput
from ..types import Span, Triplet
from .llm_call import LLMCall, llm_calls
from .llm_call.merge import ancestors
from .messages import TraceAdapter
from .rewards import find_final_reward, get_reward_value

RewardMatch = Literal["first_occurrence", "first_sibling", "final"]

_AGENT_NAMES = (
    "gen_ai.agent.name",
    "agent.name",
    "agentops.agent.name",
    "agent_name",
    "agentlightning.operation.name",
    "graph.node.id",
)
_METADATA = ("response_id", "model", "tools", "parameters", "finish_reason", "usage", "policy_version", "sequence_id")
"""Fields of `LLMCall` that are copied from a triplet's last call to the triplet's metadata."""
_SPAN_KINDS = ("openinference.span.kind", "agentops.span.kind", "traceloop.span.kind")
_ENTITY_NAMES = ("agentops.entity.name", "traceloop.entity.name", "operation.name")


class TracerTraceToTriplet(TraceAdapter[list[Triplet]]):
    """Converts each successful LLM call to a triplet, in call order.

    A triplet's `prompt` and `response` are dicts. `raw_content` contains the messages of the prompt or the message of
    the response. `token_ids`, and in the response also `logprobs`, contain the values that the model server returned,
    or None if it did not return them.

    - `agent_match`: a regular expression. Only calls made by an agent with a matching name, or by agents nested inside
      it, are converted.
    - `llm_call_match`: a regular expression. Only calls recorded by a span with a matching name are converted.
    - `reward_match`: the rule that assigns a reward to a call. `first_occurrence` selects the first reward after the
      call. `first_sibling` considers only spans with the same parent as the call, and selects the first reward between
      the call and the next call. `final` selects the attempt's final reward. If there is no such reward, the triplet's
      reward is None.
    - `merge_turns`: if True, a call is merged into the same triplet as an earlier call if its prompt begins with the
      token ids of the earlier prompt and response. The merged response contains all tokens after the first prompt. Its
      `sampled` is a list with 1 for each sampled token and 0 for each token from a later prompt. The merged triplet has
      the reward of its last call.
    """

    def __init__(
        self,
        agent_match: str | None = None,
        llm_call_match: str | None = None,
        reward_match: RewardMatch = "first_occurrence",
        merge_turns: bool = False,
    ) -> None:
        if reward_match not in get_args(RewardMatch):
            choices = ", ".join(get_args(RewardMatch))
            raise InvalidInput(f"unknown reward_match {reward_match!r}; choose from {choices}", field="reward_match")
        self.agent_match = agent_match
        self.llm_call_match = llm_call_match
        self.reward_match: RewardMatch = reward_match
        self.merge_turns = merge_turns

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        trace = _Trace(source)
        calls = [call for call in llm_calls(source) if call.answered and not call.error]
        selected = [call for call in calls if self._selects(call, trace)]
        sequences = _merge_turns(selected) if self.merge_turns else [_TurnSequence([call]) for call in selected]
        return [_triplet(turns, self._reward(turns.calls[-1], trace, calls), trace) for turns in sequences]

    def _selects(self, call: LLMCall, trace: _Trace) -> bool:
        if self.llm_call_match and not any(re.search(self.llm_call_match, name) for name in call.names):
            return False
        return self.agent_match is None or any(re.search(self.agent_match, agent) for agent in trace.agents(call))

    def _reward(self, call: LLMCall, trace: _Trace, calls: list[LLMCall]) -> float | None:
        match self.reward_match:
            case "final":
                return trace.final_reward
            case "first_occurrence":
                end = trace.end_of(call)
                return next((value for position, value in trace.rewards if position > end), None)
            case "first_sibling":
                return trace.sibling_reward(call, calls)


class _Trace:
    """The spans of an attempt, with their positions, parents and rewards."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._positions = {span.span_id: position for position, span in enumerate(spans)}
        self._parents = {span.span_id: span.parent_id for span in spans}

    def end_of(self, call: LLMCall) -> int:
        """Return the position of the last span that recorded the call."""
        return max(self._positions[span_id] for span_id in call.span_ids)

    def agents(self, call: LLMCall) -> list[str]:
        """Return the names of the nested agents that made the call, with the innermost agent first."""
        own = [self._span(span_id).attributes.get("agent.name") for span_id in call.span_ids]
        outer = [span_id for span_id in ancestors(call.parent_id, self._parents) if span_id in self._positions]
        names = [*own, *(_agent_name(self._span(span_id)) for span_id in outer)]
        return list(dict.fromkeys(str(name) for name in names if name))

    @cached_property
    def final_reward(self) -> float | None:
        return find_final_reward(self._spans)

    @cached_property
    def rewards(self) -> list[tuple[int, float]]:
        """The position and primary reward of each span that has a reward."""
        values = ((position, get_reward_value(span)) for position, span in enumerate(self._spans))
        return [(position, value) for position, value in values if value is not None]

    def sibling_reward(self, call: LLMCall, calls: list[LLMCall]) -> float | None:
        """Return the first reward between this call and the next call. All three must have the same parent span."""
        end = self.end_of(call)
        ends = [self.end_of(other) for other in calls if other.parent_id == call.parent_id]
        limit = min((other for other in ends if other > end), default=len(self._spans))
        siblings = ((at, value) for at, value in self.rewards if self._spans[at].parent_id == call.parent_id)
        return next((value for at, value in siblings if end < at < limit), None)

    def _span(self, span_id: str) -> Span:
        return self._spans[self._positions[span_id]]


def _agent_name(span: Span) -> str | None:
    attributes: Mapping[str, Any] = span.attributes
    for key in _AGENT_NAMES:
        if attributes.get(key):
            return str(attributes[key])
    if any(str(attributes.get(kind, "")).lower() == "agent" for kind in _SPAN_KINDS):
        return str(next((attributes[key] for key in _ENTITY_NAMES if attributes.get(key)), span.name))
    return None


@dataclass(frozen=True)
class _TurnSequence:
    """A sequence of one or more calls. Each call continues the previous one."""

    calls: list[LLMCall]

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """The token ids of the first call's prompt."""
        return self.calls[0].prompt_token_ids

    @property
    def token_ids(self) -> list[int] | None:
        """The ids of all tokens after the first prompt, in order: sampled tokens and tokens from later prompts."""
        last, prompt = self.calls[-1], self.prompt_token_ids
        if len(self.calls) == 1 or last.prompt_token_ids is None or prompt is None:
            return last.token_ids
        return [*last.prompt_token_ids[len(prompt) :], *(last.token_ids or [])]

    @property
    def sampled(self) -> list[int] | None:
        """A mask for `token_ids`: 1 for tokens that the model sampled, 0 for tokens from later prompts."""
        return self._align([[1] * len(call.token_ids or []) for call in self.calls], 0)

    @property
    def logprobs(self) -> list[float] | None:
        """The log probabilities of `token_ids`, or None if a call lacks them. Tokens from later prompts get 0.0."""
        if any(call.logprobs is None for call in self.calls):
            return None
        return self._align([call.logprobs or [] for call in self.calls], 0.0)

    def _align(self, values_by_call: list[list[Any]], prompt_value: Any) -> list[Any] | None:
        """Return one value for each item of `token_ids`. Tokens from later prompts get `prompt_value`.

        `values_by_call` contains the values for the sampled tokens of each call.
        """
        if self.token_ids is None:
            return None
        prompt_length = len(self.prompt_token_ids or [])
        aligned: list[Any] = []
        for call, values in zip(self.calls, values_by_call, strict=True):
            aligned += [prompt_value] * (len(call.prompt_token_ids or []) - prompt_length - len(aligned))
            aligned += values
        return aligned


def _merge_turns(calls: Sequence[LLMCall]) -> list[_TurnSequence]:
    """Group the calls into sequences in which each call continues the previous one, ordered by their first calls.

    A call continues an earlier one if its prompt begins with the token ids of the earlier prompt and response. If the
    server tokenized the earlier response differently in the later prompt, the later call starts a new sequence. If it
    were merged, a model would be trained on token ids that were never sampled.
    """
    sequences: list[list[LLMCall]] = []
    for call in calls:
        previous = next((turns for turns in reversed(sequences) if _continues(call, turns[-1])), None)
        if previous is None:
            sequences.append([call])
        else:
            previous.append(call)
    return [_TurnSequence(turns) for turns in sequences]


def _continues(call: LLMCall, previous: LLMCall) -> bool:
    if not (call.prompt_token_ids and previous.prompt_token_ids and previous.token_ids):
        return False
    context = [*previous.prompt_token_ids, *previous.token_ids]
    return call.prompt_token_ids[: len(context)] == context


def _triplet(turns: _TurnSequence, reward: float | None, trace: _Trace) -> Triplet:
    first, last = turns.calls[0], turns.calls[-1]
    agents = trace.agents(last)
    response: dict[str, Any] = {
        "token_ids": turns.token_ids,
        "logprobs": turns.logprobs,
        "raw_content": last.output[0] if first is last else [*last.messages[len(first.messages) :], last.output[0]],
    }
    return Triplet(
        prompt={"token_ids": turns.prompt_token_ids, "raw_content": first.messages},
        response=response if first is last else {**response, "sampled": turns.sampled},
        reward=reward,
        metadata={
            **{name: getattr(last, name) for name in _METADATA},
            "agent_name": agents[0] if agents else None,
            "span_ids": [span_id for call in turns.calls for span_id in call.span_ids],
            "turns": len(turns.calls),
        },
    )
