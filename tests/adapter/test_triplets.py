"""TracerTraceToTriplet: prompt, response and reward, for the selected agents."""

from __future__ import annotations

import pytest

import agentlightning as agl
from agentlightning.types import Span

from .golden import span, wire_span


def reward(value: float, **more) -> Span:
    return span(
        "agentlightning.annotation",
        {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value},
        **more,
    )


def rewards(spans: list[Span], **settings) -> list[float | None]:
    return [triplet.reward for triplet in agl.TracerTraceToTriplet(**settings).adapt(spans)]


def test_triplet_has_token_ids_logprobs_and_messages():
    entries = [{"token": "Hi", "id": 7, "logprob": -0.5}]
    choice = {
        "message": {"role": "assistant", "content": "Hi"},
        "finish_reason": "stop",
        "logprobs": {"content": entries},
    }
    answer = {"id": "r1", "model": "m", "choices": [choice], "prompt_token_ids": [1, 2]}
    call = wire_span(
        "Hello", "", attributes={"agentlightning.response": answer, "agentlightning.policy_version": "step-3"}
    )

    [triplet] = agl.TracerTraceToTriplet().adapt([call, reward(0.5)])

    assert triplet.prompt == {"token_ids": [1, 2], "raw_content": [{"role": "user", "content": "Hello"}]}
    assert triplet.response == {
        "token_ids": [7],
        "logprobs": [-0.5],
        "raw_content": {"role": "assistant", "content": "Hi"},
    }
    assert triplet.reward == 0.5
    assert triplet.metadata["response_id"] == "r1"
    assert triplet.metadata["policy_version"] == "step-3"
    assert triplet.metadata["span_ids"] == [call.span_id]


def test_missing_token_ids_are_none():
    [triplet] = agl.TracerTraceToTriplet().adapt([wire_span("Hello", "Hi")])

    assert (triplet.prompt["token_ids"], triplet.response["token_ids"], triplet.reward) == (None, None, None)


def test_first_occurrence_gives_a_call_the_first_reward_after_it():
    spans = [
        wire_span("1", "1"),
        wire_span("2", "2"),
        reward(0.25),
        wire_span("3", "3"),
        reward(1.0),
        wire_span("4", "4"),
    ]

    assert rewards(spans) == [0.25, 0.25, 1.0, None]


def test_final_gives_every_call_the_final_reward():
    spans = [wire_span("1", "1"), reward(0.25), wire_span("2", "2"), reward(1.0)]

    assert rewards(spans, reward_match="final") == [1.0, 1.0]


def test_first_sibling_gives_a_call_the_reward_of_its_branch():
    left, right = span("left"), span("right")
    spans = [
        wire_span("1", "1", within=left),
        wire_span("2", "2", within=right),
        reward(0.5, within=right),
        reward(0.25, within=left),
        wire_span("3", "3", within=right),
        left,
        right,
    ]

    assert rewards(spans, reward_match="first_sibling") == [0.25, 0.5, None]


def test_first_sibling_ends_at_the_next_call():
    agent = span("agent")
    spans = [wire_span("1", "1", within=agent), wire_span("2", "2", within=agent), reward(1.0, within=agent), agent]

    assert rewards(spans, reward_match="first_sibling") == [None, 1.0]


def test_zero_reward_is_zero_and_missing_reward_is_none():
    assert rewards([wire_span("1", "1"), reward(0.0), wire_span("2", "2")]) == [0.0, None]


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "writer"},
        {"openinference.span.kind": "AGENT", "agent.name": "writer"},
        {"agentops.span.kind": "agent", "agentops.entity.name": "writer"},
        {"agentlightning.operation.name": "writer"},
    ],
)
def test_agent_match_selects_agents_in_every_notation(attributes: dict[str, str]):
    root = span("root")
    writer = span("one", attributes, within=root)
    critic = span("two", {key: value.replace("writer", "critic") for key, value in attributes.items()}, within=root)
    step = span("step", within=writer)
    spans = [wire_span("1", "w", within=step), wire_span("2", "c", within=critic), step, writer, critic, root]

    found = agl.TracerTraceToTriplet(agent_match="^writer$").adapt(spans)

    assert [triplet.response["raw_content"]["content"] for triplet in found] == ["w"]
    assert found[0].metadata["agent_name"] == "writer"
    assert len(agl.TracerTraceToTriplet(agent_match="writer|critic").adapt(spans)) == 2


def test_agent_without_a_name_has_the_name_of_its_span():
    agent = span("planner", {"openinference.span.kind": "AGENT"})

    [triplet] = agl.TracerTraceToTriplet(agent_match="planner").adapt([wire_span("1", "1", within=agent), agent])

    assert triplet.metadata["agent_name"] == "planner"


def test_llm_call_match_selects_calls_by_span_name():
    spans = [wire_span("1", "1"), wire_span("2", "2").model_copy(update={"name": "judge"})]

    assert len(agl.TracerTraceToTriplet(llm_call_match=r"openai\.chat\.completion").adapt(spans)) == 1


def _turn(prompt: list[int], sampled: list[int], messages: list[dict], text: str) -> Span:
    entries = [{"token": "x", "id": token_id, "logprob": -token_id / 10} for token_id in sampled]
    choice = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": entries}}
    return span(
        "openai.chat.completion",
        {
            "url.path": "/v1/chat/completions",
            "agentlightning.request": {"model": "m", "messages": messages},
            "agentlightning.response": {"id": text, "choices": [choice], "prompt_token_ids": prompt},
        },
    )


def test_turns_with_the_same_token_ids_become_one_sequence():
    ask = [{"role": "user", "content": "a"}]
    later = [*ask, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    spans = [_turn([1, 2], [3, 4], ask, "b"), _turn([1, 2, 3, 4, 5, 6], [7], later, "d"), reward(1.0)]

    [triplet] = agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)

    assert triplet.prompt == {"token_ids": [1, 2], "raw_content": ask}
    assert triplet.response == {
        "token_ids": [3, 4, 5, 6, 7],
        "sampled": [1, 1, 0, 0, 1],
        "logprobs": [-0.3, -0.4, 0.0, 0.0, -0.7],
        "raw_content": [*later[1:], {"role": "assistant", "content": "d"}],
    }
    assert (triplet.reward, triplet.metadata["turns"]) == (1.0, 2)
    assert len(agl.TracerTraceToTriplet().adapt(spans)) == 2


def test_turn_with_different_token_ids_is_not_merged():
    ask = [{"role": "user", "content": "a"}]
    spans = [_turn([1, 2], [3, 4], ask, "b"), _turn([1, 2, 34, 5], [7], ask, "d")]

    assert [triplet.metadata["turns"] for triplet in agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)] == [1, 1]


def test_calls_without_token_ids_are_not_merged():
    spans = [wire_span("1", "1"), wire_span("2", "2")]

    assert len(agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)) == 2


def test_interleaved_conversations_are_separate_sequences():
    ask = [{"role": "user", "content": "a"}]
    spans = [
        _turn([1], [2], ask, "b"),
        _turn([1], [3], ask, "c"),
        _turn([1, 2, 9], [4], ask, "d"),
        _turn([1, 3], [5], ask, "e"),
    ]

    found = agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)

    assert [triplet.response["token_ids"] for triplet in found] == [[2, 9, 4], [3, 5]]


def test_unknown_reward_match_lists_the_choices():
    with pytest.raises(ValueError, match="first_occurrence, first_sibling, final"):
        agl.TracerTraceToTriplet(reward_match="last")  # pyright: ignore[reportArgumentType]
