"""One call seen through several spans is one view; two calls never become one."""

from __future__ import annotations

from agentlightning.adapter import llm_calls

from .golden import calls_of, span, wire_span


def _framework(question: str, *, id: str | None = None, said: str | None = "Well", **more):
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "m",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": question,
    }
    if said is not None:
        attributes |= {"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": said}
    if id:
        attributes["output.value"] = {"id": id, "choices": []}
    return span("ChatModel", attributes, **more)


def test_spans_with_one_response_id_are_one_call_under_the_frameworks_parent():
    agent = span("agent", at=(0, 9))
    framework = _framework("Hello", id="r1", within=agent, at=(1, 4))
    wire = wire_span("Hello", "Well", id="r1", within=framework, at=(2, 3))

    [call] = llm_calls([wire, framework, agent])

    assert call.span_ids == [wire.span_id, framework.span_id]
    assert (call.dialect, call.parent_id, call.start_time, call.end_time) == ("wire", agent.span_id, 1, 4)


def test_without_ids_a_span_inside_another_is_the_same_call():
    framework = _framework("Hello", at=(1, 4))
    chain = span("transport", within=framework, at=(1.5, 3.5))
    wire = wire_span("Hello", "Well", within=chain, at=(2, 3))

    [call] = llm_calls([wire, chain, framework])

    assert call.span_ids == [wire.span_id, framework.span_id]


def test_a_call_made_in_the_name_of_another_but_after_it_is_its_own():
    framework = _framework("Hello", at=(1, 2))
    wire = wire_span("Hello", "Well", within=framework, at=(5, 6))

    assert len(llm_calls([framework, wire])) == 2


def test_the_proxys_span_and_the_agents_are_one_call_although_in_two_traces():
    agent = span("agent")
    seen_by_agent = wire_span("Hello", "Well", id="r1", within=agent)
    seen_by_proxy = wire_span("Hello", "Well", id="r1").model_copy(update={"trace_id": "b" * 32})

    [call] = llm_calls([seen_by_proxy, seen_by_agent, agent])

    assert (call.parent_id, call.trace_id) == (agent.span_id, agent.trace_id)


def test_a_server_that_gives_every_answer_the_same_id_is_not_believed():
    spans = [wire_span("one", "1", id="same"), wire_span("two", "2", id="same"), wire_span("two", "2!", id="same")]

    assert [call.output[0]["content"] for call in llm_calls(spans)] == ["1", "2", "2!"]


def test_a_request_sent_again_is_one_call_with_the_answer_of_the_last_try():
    agent = span("agent")
    broken = wire_span("Hello", None, within=agent, error="HTTP 500")
    answered = wire_span("Hello", "Well", within=agent, attributes={"http.request.resend_count": 1})

    [call] = llm_calls([broken, answered, agent])

    assert (call.error, call.output[0]["content"]) == (None, "Well")
    assert call.span_ids == [answered.span_id, broken.span_id]


def test_tries_that_all_failed_are_one_call_with_an_error():
    tries = [
        wire_span("Hello", None, error="HTTP 500", attributes={"http.request.resend_count": n} if n else {})
        for n in range(3)
    ]

    [call] = llm_calls(tries)

    assert (call.error, call.answered) == ("HTTP 500", False)


def test_the_same_question_asked_anew_after_a_failure_is_another_call():
    spans = [wire_span("Hello", None, error="HTTP 500"), wire_span("Hello", "Well")]

    assert len(llm_calls(spans)) == 2


def test_a_framework_that_tries_again_within_one_span_has_taken_the_last_answer():
    framework = _framework("Hello", said="good", at=(0, 9))
    first = wire_span("Hello", "bad", within=framework, at=(1, 2))
    failed = wire_span("Hello", None, within=framework, at=(3, 4), error="HTTP 500")
    last = wire_span("Hello", "good", within=framework, at=(5, 6))

    one, other = llm_calls([first, failed, last, framework])

    assert one.output[0]["content"] == "bad"
    assert other.span_ids == [last.span_id, framework.span_id, failed.span_id]


def test_a_streamed_call_and_the_log_of_what_came_of_it_are_one():
    [call] = calls_of("logfire", "chat_stream")

    assert len(call.span_ids) == 2
    assert call.answered


def test_calls_side_by_side_stay_apart():
    agent = span("agent", at=(0, 9))
    spans = [wire_span("Hello", f"answer {n}", within=agent, at=(1, 5)) for n in range(5)]

    assert [call.output[0]["content"] for call in llm_calls([*spans, agent])] == [f"answer {n}" for n in range(5)]


def test_spans_that_name_each_other_as_parents_do_not_hang_it():
    one, other = wire_span("a", "1"), wire_span("b", "2")
    one.parent_id, other.parent_id = other.span_id, one.span_id

    assert len(llm_calls([one, other])) <= 2


def test_a_librarys_span_beside_the_wires_under_one_parent_is_the_same_call():
    step = span("model", at=(0, 9))
    framework = _framework("Hello", within=step, at=(1, 4))
    wire = wire_span("Hello", "Well", id="r1", within=step, at=(2, 3))

    [call] = llm_calls([wire, framework, step])

    assert call.span_ids == [wire.span_id, framework.span_id]
    assert call.parent_id == step.span_id


def test_of_calls_at_the_same_time_beside_each_other_each_finds_its_own():
    step = span("model", at=(0, 9))
    first, second = (_framework(asked, within=step, at=at) for asked, at in (("One", (1, 8)), ("Two", (2, 7))))
    wires = [wire_span(asked, "Well", within=step, at=at) for asked, at in (("One", (1.5, 7.5)), ("Two", (2.5, 6.5)))]

    calls = llm_calls([*wires, second, first, step])

    assert [call.span_ids for call in calls] == [[wires[0].span_id, first.span_id], [wires[1].span_id, second.span_id]]


def test_calls_beside_each_other_that_ask_different_things_stay_apart():
    step = span("step", at=(0, 9))
    elsewhere = _framework("One", within=step, at=(1, 8))
    wire = wire_span("Two", "Well", within=step, at=(2, 7))

    assert len(llm_calls([wire, elsewhere, step])) == 2


def test_a_call_that_goes_on_from_an_answer_the_server_remembers_shows_the_whole_conversation():
    def responses(asked: str, said: str, id: str, **more: str):
        output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]}]
        request = {"model": "m", "instructions": "Be brief.", "input": asked, **more}
        attributes = {"url.path": "/v1/responses", "agentlightning.request": request}
        return span("openai.responses", {**attributes, "agentlightning.response": {"id": id, "output": output}})

    [_, _, call] = llm_calls(
        [
            responses("One?", "1", "r1"),
            responses("Two?", "2", "r2", previous_response_id="r1"),
            responses("Three?", "3", "r3", previous_response_id="r2"),
        ]
    )

    assert [message["content"] for message in call.messages] == ["Be brief.", "One?", "1", "Two?", "2", "Three?"]
