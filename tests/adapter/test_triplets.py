"""TracerTraceToTriplet: prompt, response and reward, for the agents that are asked for."""

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


def test_a_triplet_holds_token_ids_logprobs_and_what_was_said():
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


def test_without_token_ids_they_are_none_and_not_empty():
    [triplet] = agl.TracerTraceToTriplet().adapt([wire_span("Hello", "Hi")])

    assert (triplet.prompt["token_ids"], triplet.response["token_ids"], triplet.reward) == (None, None, None)


def test_a_call_gets_the_first_reward_that_comes_after_it():
    spans = [
        wire_span("1", "1"),
        wire_span("2", "2"),
        reward(0.25),
        wire_span("3", "3"),
        reward(1.0),
        wire_span("4", "4"),
    ]

    assert rewards(spans) == [0.25, 0.25, 1.0, None]


def test_every_call_can_get_the_final_reward():
    spans = [wire_span("1", "1"), reward(0.25), wire_span("2", "2"), reward(1.0)]

    assert rewards(spans, reward_match="final") == [1.0, 1.0]


def test_a_call_can_be_held_to_the_rewards_of_its_own_branch():
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


def test_a_siblings_reward_is_not_looked_for_beyond_the_next_call():
    agent = span("agent")
    spans = [wire_span("1", "1", within=agent), wire_span("2", "2", within=agent), reward(1.0, within=agent), agent]

    assert rewards(spans, reward_match="first_sibling") == [None, 1.0]


def test_a_reward_of_zero_is_zero_and_a_missing_one_is_none():
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
def test_agents_are_selected_by_name_in_every_spelling(attributes: dict[str, str]):
    root, writer, critic = span("root"), None, None
    writer = span("one", attributes, within=root)
    critic = span("two", {key: value.replace("writer", "critic") for key, value in attributes.items()}, within=root)
    step = span("step", within=writer)
    spans = [wire_span("1", "w", within=step), wire_span("2", "c", within=critic), step, writer, critic, root]

    found = agl.TracerTraceToTriplet(agent_match="^writer$").adapt(spans)

    assert [triplet.response["raw_content"]["content"] for triplet in found] == ["w"]
    assert found[0].metadata["agent_name"] == "writer"
    assert len(agl.TracerTraceToTriplet(agent_match="writer|critic").adapt(spans)) == 2


def test_a_span_named_after_its_agent_is_enough():
    agent = span("planner", {"openinference.span.kind": "AGENT"})

    [triplet] = agl.TracerTraceToTriplet(agent_match="planner").adapt([wire_span("1", "1", within=agent), agent])

    assert triplet.metadata["agent_name"] == "planner"


def test_calls_are_selected_by_the_name_of_their_span():
    spans = [wire_span("1", "1"), wire_span("2", "2").model_copy(update={"name": "judge"})]

    assert len(agl.TracerTraceToTriplet(llm_call_match=r"openai\.chat\.completion").adapt(spans)) == 1


def _turn(prompt: list[int], sampled: list[int], messages: list[dict], answer: str) -> Span:
    entries = [{"token": "x", "id": one, "logprob": -one / 10} for one in sampled]
    choice = {"message": {"role": "assistant", "content": answer}, "logprobs": {"content": entries}}
    return span(
        "openai.chat.completion",
        {
            "url.path": "/v1/chat/completions",
            "agentlightning.request": {"model": "m", "messages": messages},
            "agentlightning.response": {"id": answer, "choices": [choice], "prompt_token_ids": prompt},
        },
    )


def test_turns_that_continue_each_other_id_for_id_are_one_sequence():
    ask = [{"role": "user", "content": "a"}]
    then = [*ask, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    spans = [_turn([1, 2], [3, 4], ask, "b"), _turn([1, 2, 3, 4, 5, 6], [7], then, "d"), reward(1.0)]

    [triplet] = agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)

    assert triplet.prompt == {"token_ids": [1, 2], "raw_content": ask}
    assert triplet.response == {
        "token_ids": [3, 4, 5, 6, 7],
        "sampled": [1, 1, 0, 0, 1],
        "logprobs": [-0.3, -0.4, 0.0, 0.0, -0.7],
        "raw_content": [*then[1:], {"role": "assistant", "content": "d"}],
    }
    assert (triplet.reward, triplet.metadata["turns"]) == (1.0, 2)
    assert len(agl.TracerTraceToTriplet().adapt(spans)) == 2


def test_a_turn_that_was_tokenized_anew_in_another_way_is_not_merged():
    ask = [{"role": "user", "content": "a"}]
    spans = [_turn([1, 2], [3, 4], ask, "b"), _turn([1, 2, 34, 5], [7], ask, "d")]

    assert [triplet.metadata["turns"] for triplet in agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)] == [1, 1]


def test_calls_without_token_ids_are_never_merged():
    spans = [wire_span("1", "1"), wire_span("2", "2")]

    assert len(agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)) == 2


def test_two_conversations_side_by_side_are_two_sequences():
    ask = [{"role": "user", "content": "a"}]
    spans = [
        _turn([1], [2], ask, "b"),
        _turn([1], [3], ask, "c"),
        _turn([1, 2, 9], [4], ask, "d"),
        _turn([1, 3], [5], ask, "e"),
    ]

    found = agl.TracerTraceToTriplet(merge_turns=True).adapt(spans)

    assert [triplet.response["token_ids"] for triplet in found] == [[2, 9, 4], [3, 5]]


def test_a_misspelled_reward_match_is_refused_with_the_ones_there_are():
    with pytest.raises(ValueError, match="first_occurrence, first_sibling, final"):
        agl.TracerTraceToTriplet(reward_match="last")  # pyright: ignore[reportArgumentType]
