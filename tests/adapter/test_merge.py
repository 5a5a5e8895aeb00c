"""Several spans of one call become one view; two calls never do."""

from __future__ import annotations

from typing import Any

from agentlightning.adapter import llm_calls

from .golden import calls_of, span, wire_span


def _framework(question: str, *, id: str | None = None, text: str | None = "Well", **more):
    attributes: dict[str, Any] = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "m",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": question,
    }
    if text is not None:
        attributes |= {"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": text}
    if id:
        attributes["output.value"] = {"id": id, "choices": []}
    return span("ChatModel", attributes, **more)


def test_spans_with_one_response_id_are_one_call_under_the_outermost_parent():
    agent = span("agent", at=(0, 9))
    framework = _framework("Hello", id="r1", within=agent, at=(1, 4))
    wire = wire_span("Hello", "Well", id="r1", within=framework, at=(2, 3))

    [call] = llm_calls([wire, framework, agent])

    assert call.span_ids == [wire.span_id, framework.span_id]
    assert (call.dialect, call.parent_id, call.start_time, call.end_time) == ("wire", agent.span_id, 1, 4)


def test_nested_span_without_id_is_the_same_call():
    framework = _framework("Hello", at=(1, 4))
    chain = span("transport", within=framework, at=(1.5, 3.5))
    wire = wire_span("Hello", "Well", within=chain, at=(2, 3))

    [call] = llm_calls([wire, chain, framework])

    assert call.span_ids == [wire.span_id, framework.span_id]


def test_child_that_starts_after_its_parent_ended_is_another_call():
    framework = _framework("Hello", at=(1, 2))
    wire = wire_span("Hello", "Well", within=framework, at=(5, 6))

    assert len(llm_calls([framework, wire])) == 2


def test_spans_of_proxy_and_agent_are_one_call_across_traces():
    agent = span("agent")
    seen_by_agent = wire_span("Hello", "Well", id="r1", within=agent)
    seen_by_proxy = wire_span("Hello", "Well", id="r1").model_copy(update={"trace_id": "b" * 32})

    [call] = llm_calls([seen_by_proxy, seen_by_agent, agent])

    assert (call.parent_id, call.trace_id) == (agent.span_id, agent.trace_id)


def test_calls_with_one_response_id_but_other_bodies_stay_apart():
    spans = [wire_span("one", "1", id="same"), wire_span("two", "2", id="same"), wire_span("two", "2!", id="same")]

    assert [call.output[0]["content"] for call in llm_calls(spans)] == ["1", "2", "2!"]


def test_retried_request_is_one_call_with_the_last_response():
    agent = span("agent")
    broken = wire_span("Hello", None, within=agent, error="HTTP 500")
    answered = wire_span("Hello", "Well", within=agent, attributes={"http.request.resend_count": 1})

    [call] = llm_calls([broken, answered, agent])

    assert (call.error, call.output[0]["content"]) == (None, "Well")
    assert call.span_ids == [answered.span_id, broken.span_id]


def test_retries_that_all_fail_are_one_call_with_an_error():
    tries = [
        wire_span("Hello", None, error="HTTP 500", attributes={"http.request.resend_count": n} if n else {})
        for n in range(3)
    ]

    [call] = llm_calls(tries)

    assert (call.error, call.answered) == ("HTTP 500", False)


def test_same_request_without_retry_count_is_another_call():
    spans = [wire_span("Hello", None, error="HTTP 500"), wire_span("Hello", "Well")]

    assert len(llm_calls(spans)) == 2


def test_framework_span_joins_the_last_response_within_it():
    framework = _framework("Hello", text="good", at=(0, 9))
    first = wire_span("Hello", "bad", within=framework, at=(1, 2))
    failed = wire_span("Hello", None, within=framework, at=(3, 4), error="HTTP 500")
    last = wire_span("Hello", "good", within=framework, at=(5, 6))

    one, other = llm_calls([first, failed, last, framework])

    assert one.output[0]["content"] == "bad"
    assert other.span_ids == [last.span_id, framework.span_id, failed.span_id]


def test_streamed_call_and_its_log_record_are_one_call():
    [call] = calls_of("logfire", "chat_stream")

    assert len(call.span_ids) == 2
    assert call.answered


def test_concurrent_calls_stay_apart():
    agent = span("agent", at=(0, 9))
    spans = [wire_span("Hello", f"answer {n}", within=agent, at=(1, 5)) for n in range(5)]

    assert [call.output[0]["content"] for call in llm_calls([*spans, agent])] == [f"answer {n}" for n in range(5)]


def test_cycle_of_parents_ends():
    one, other = wire_span("a", "1"), wire_span("b", "2")
    one.parent_id, other.parent_id = other.span_id, one.span_id

    assert len(llm_calls([one, other])) <= 2


def test_sibling_span_of_a_library_is_the_same_call():
    step = span("model", at=(0, 9))
    framework = _framework("Hello", within=step, at=(1, 4))
    wire = wire_span("Hello", "Well", id="r1", within=step, at=(2, 3))

    [call] = llm_calls([wire, framework, step])

    assert call.span_ids == [wire.span_id, framework.span_id]
    assert call.parent_id == step.span_id


def test_concurrent_siblings_are_matched_by_message():
    step = span("model", at=(0, 9))
    first, second = (_framework(question, within=step, at=at) for question, at in (("One", (1, 8)), ("Two", (2, 7))))
    wires = [
        wire_span(question, "Well", within=step, at=at) for question, at in (("One", (1.5, 7.5)), ("Two", (2.5, 6.5)))
    ]

    calls = llm_calls([*wires, second, first, step])

    assert [call.span_ids for call in calls] == [[wires[0].span_id, first.span_id], [wires[1].span_id, second.span_id]]


def test_siblings_with_different_messages_stay_apart():
    step = span("step", at=(0, 9))
    framework = _framework("One", within=step, at=(1, 8))
    wire = wire_span("Two", "Well", within=step, at=(2, 7))

    assert len(llm_calls([wire, framework, step])) == 2


def test_call_with_previous_response_id_has_the_whole_conversation():
    def responses(question: str, text: str, id: str, **more: str):
        output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]
        request = {"model": "m", "instructions": "Be brief.", "input": question, **more}
        attributes: dict[str, Any] = {"url.path": "/v1/responses", "agentlightning.request": request}
        return span("openai.responses", {**attributes, "agentlightning.response": {"id": id, "output": output}})

    [_, _, call] = llm_calls(
        [
            responses("One?", "1", "r1"),
            responses("Two?", "2", "r2", previous_response_id="r1"),
            responses("Three?", "3", "r3", previous_response_id="r2"),
        ]
    )

    assert [message["content"] for message in call.messages] == ["Be brief.", "One?", "1", "Two?", "2", "Three?"]
