"""TracerTraceToTriplet: the calls of a trace as prompt, response and reward, with their token ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from ..errors import InvalidInput
from ..types import Span, Triplet
from .base import TraceAdapter
from .llm_call import LLMCall, llm_calls
from .rewards import find_final_reward, get_reward_value
from .turns import Turns, turns

RewardMatch = Literal["first_occurrence", "first_sibling", "final"]

_AGENT_NAMES = (
    "gen_ai.agent.name",
    "agent.name",
    "agentops.agent.name",
    "agent_name",
    "agentlightning.operation.name",
    "graph.node.id",
)
_AGENT_KINDS = ("openinference.span.kind", "agentops.span.kind", "traceloop.span.kind")
_ENTITY_NAMES = ("agentops.entity.name", "traceloop.entity.name", "operation.name")


class TracerTraceToTriplet(TraceAdapter[list[Triplet]]):
    """One triplet for each call that was answered, in the order of the calls.

    `prompt` and `response` hold `token_ids` (and the response `logprobs`) as the model server gave them, or None, and
    `raw_content`: the messages asked, the message answered.

    - `agent_match`: only calls made within an agent whose name this pattern finds; agents inside others count too.
    - `llm_call_match`: only calls that were seen through a span whose name this pattern finds.
    - `reward_match`: `first_occurrence` gives a call the first reward that comes after it; `first_sibling` the first
      one after it under the same parent span, if there is one before the next call there; `final` gives every call
      the attempt's final reward. A call for which there is none has None.
    - `merge_turns`: calls that continue each other, token id for token id, are one triplet. Its response holds all that
      followed the first prompt; `sampled` is 1 for the tokens that the model sampled, 0 for those it was told between.
      The reward is that of the last call.
    """

    def __init__(
        self,
        agent_match: str | None = None,
        llm_call_match: str | None = None,
        reward_match: RewardMatch = "first_occurrence",
        merge_turns: bool = False,
    ) -> None:
        if reward_match not in get_args(RewardMatch):
            raise InvalidInput(
                f"reward_match is one of {', '.join(get_args(RewardMatch))}, not {reward_match!r}", field="reward_match"
            )
        self.agent_match = agent_match
        self.llm_call_match = llm_call_match
        self.reward_match: RewardMatch = reward_match
        self.merge_turns = merge_turns

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        trace = _Trace(source)
        calls = [call for call in llm_calls(source) if call.answered and not call.error]
        wanted = [call for call in calls if self._wants(call, trace)]
        rewards = _rewards(self.reward_match, trace, calls)
        sequences = turns(wanted) if self.merge_turns else [Turns([call]) for call in wanted]
        return [_triplet(sequence, rewards.get(sequence.calls[-1].span_ids[0]), trace) for sequence in sequences]

    def _wants(self, call: LLMCall, trace: _Trace) -> bool:
        if self.llm_call_match and not any(re.search(self.llm_call_match, name) for name in call.names):
            return False
        agents = trace.agents(call)
        return self.agent_match is None or any(re.search(self.agent_match, agent) for agent in agents)


class _Trace:
    """Spans, and where they are in order and tree."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.place = {span.span_id: place for place, span in enumerate(spans)}

    def end_of(self, call: LLMCall) -> int:
        """The place of the last span that tells of the call; what comes after it came after the call."""
        return max(self.place[span_id] for span_id in call.span_ids)

    def agents(self, call: LLMCall) -> list[str]:
        """Names of the agents that the call was made in, the innermost first."""
        around = [name for span in self._around(call.parent_id) if (name := _agent_name(span))]
        own = [
            name for span_id in call.span_ids if (name := self.spans[self.place[span_id]].attributes.get("agent.name"))
        ]
        return list(dict.fromkeys([*map(str, own), *around]))

    def _around(self, span_id: str | None) -> Iterator[Span]:
        passed: set[str] = set()
        while span_id in self.place and span_id not in passed:
            passed.add(span_id)
            span = self.spans[self.place[span_id]]
            yield span
            span_id = span.parent_id


def _agent_name(span: Span) -> str | None:
    attributes: Mapping[str, Any] = span.attributes
    for key in _AGENT_NAMES:
        if attributes.get(key):
            return str(attributes[key])
    if any(str(attributes.get(kind, "")).lower() == "agent" for kind in _AGENT_KINDS):
        return str(next((attributes[key] for key in _ENTITY_NAMES if attributes.get(key)), span.name))
    return None


# Rewards, by the first span of the call they are given for


def _rewards(match: RewardMatch, trace: _Trace, calls: list[LLMCall]) -> dict[str, float | None]:
    match match:
        case "final":
            final = find_final_reward(trace.spans)
            return {call.span_ids[0]: final for call in calls}
        case "first_occurrence":
            given = list(_given(trace.spans))
            return {call.span_ids[0]: _first_after(trace.end_of(call), given) for call in calls}
        case "first_sibling":
            return {call.span_ids[0]: _sibling(call, trace, calls) for call in calls}


def _given(spans: Sequence[Span]) -> Iterator[tuple[int, float]]:
    for place, span in enumerate(spans):
        value = get_reward_value(span)
        if value is not None:
            yield place, value


def _first_after(place: int, given: list[tuple[int, float]]) -> float | None:
    return next((value for at, value in given if at > place), None)


def _sibling(call: LLMCall, trace: _Trace, calls: list[LLMCall]) -> float | None:
    end = trace.end_of(call)
    beside = (other for other in calls if other.parent_id == call.parent_id)
    next_call = min((trace.end_of(other) for other in beside if trace.end_of(other) > end), default=len(trace.spans))
    siblings = [
        (place, value) for place, value in _given(trace.spans) if trace.spans[place].parent_id == call.parent_id
    ]
    return _first_after(end, [(place, value) for place, value in siblings if place < next_call])


# Triplets


def _triplet(sequence: Turns, reward: float | None, trace: _Trace) -> Triplet:
    first, last = sequence.calls[0], sequence.calls[-1]
    agents = trace.agents(last)
    response: dict[str, Any] = {
        "token_ids": sequence.token_ids,
        "logprobs": sequence.logprobs,
        "raw_content": last.output[0] if first is last else sequence.messages,
    }
    return Triplet(
        prompt={"token_ids": sequence.prompt_token_ids, "raw_content": first.messages},
        response=response if first is last else {**response, "sampled": sequence.sampled},
        reward=reward,
        metadata={
            "response_id": last.response_id,
            "agent_name": agents[0] if agents else None,
            "model": last.model,
            "tools": last.tools,
            "parameters": last.parameters,
            "finish_reason": last.finish_reason,
            "usage": last.usage,
            "policy_version": last.policy_version,
            "sequence_id": last.sequence_id,
            "span_ids": [span_id for call in sequence.calls for span_id in call.span_ids],
            "turns": len(sequence.calls),
        },
    )
