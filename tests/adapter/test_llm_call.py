"""Parsing of one span: token ids, and notations without a fixture."""

from __future__ import annotations

import json

from agentlightning.adapter import llm_calls
from agentlightning.types import Event

from .golden import span, wire_span

ENTRIES = [{"token": "Hi", "id": 7, "logprob": -0.5}, {"token": "!", "id": 9, "logprob": -0.25}]


def _wire(response: dict, request: dict | None = None, name: str = "openai.chat.completion", path: str = ""):
    request = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]} if request is None else request
    [call] = llm_calls(
        [span(name, {"url.path": path, "agentlightning.request": request, "agentlightning.response": response})]
    )
    return call


def _choice(**more: object) -> dict:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi!"}, **more}]}


def test_token_ids_of_vllm_are_read():
    call = _wire({**_choice(token_ids=[7, 9]), "prompt_token_ids": [1, 2, 3]})

    assert (call.prompt_token_ids, call.token_ids, call.logprobs) == ([1, 2, 3], [7, 9], None)


def test_token_ids_of_llama_cpp_are_read():
    call = _wire(_choice(logprobs={"content": ENTRIES}))

    assert (call.token_ids, call.logprobs) == ([7, 9], [-0.5, -0.25])


def test_token_ids_in_the_text_of_tokens_are_read():
    call = _wire(_choice(logprobs={"content": [{"token": "token_id:7", "logprob": -0.5}]}))

    assert (call.token_ids, call.logprobs) == ([7], [-0.5])


def test_logprobs_of_a_text_completion_are_read():
    response = {"choices": [{"text": "Hi", "logprobs": {"tokens": ["token_id:7"], "token_logprobs": [-0.5]}}]}
    call = _wire(response, {"model": "m", "prompt": "Hello"}, "openai.completion", "/v1/completions")

    assert call.operation == "text_completion"
    assert (call.messages, call.output[0]["content"]) == ([{"role": "user", "content": "Hello"}], "Hi")
    assert (call.token_ids, call.logprobs) == ([7], [-0.5])


def test_logprobs_of_the_responses_api_are_read():
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Hi!", "logprobs": ENTRIES}]}]
    call = _wire({"output": output}, {"input": "Hello"}, "openai.responses", "/v1/responses")

    assert call.logprobs == [-0.5, -0.25]


def test_incomplete_logprobs_are_none():
    assert _wire(_choice(logprobs={"content": [{"token": "Hi", "logprob": None}]})).logprobs is None


def test_reasoning_is_kept_beside_the_content():
    body = {"choices": [{"message": {"role": "assistant", "content": "4", "reasoning": "2 and 2"}}]}

    assert _wire(body).output == [{"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}]


def test_images_are_recorded_completely_for_every_api():
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    anthropic = {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    responses = {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]
    }

    calls = [
        _wire({}, anthropic, "anthropic.messages", "/v1/messages"),
        _wire({}, responses, "openai.responses", "/v1/responses"),
    ]

    for call in calls:
        assert call.messages[0]["content"] == [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        ]


def test_parallel_function_calls_of_the_responses_api_are_one_message():
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in (1, 2)]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}", "output": "ok"} for n in (1, 2)]
    call = _wire({}, {"input": [*calls, *outputs]}, "openai.responses", "/v1/responses")

    assert [message["role"] for message in call.messages] == ["assistant", "tool", "tool"]
    assert [tool_call["id"] for tool_call in call.messages[0]["tool_calls"]] == ["c1", "c2"]


def test_messages_in_an_event_of_opentelemetry_are_read():
    event_span = span("chat m", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})
    messages = [{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}]
    details = {"gen_ai.input.messages": messages}
    event_span.events = [Event(name="gen_ai.client.inference.operation.details", attributes=details)]

    [call] = llm_calls([event_span])

    assert call.messages == [{"role": "user", "content": "Hello"}]


def test_span_of_an_agent_or_tool_is_not_a_call():
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}])
    agent = span("invoke_agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.input.messages": messages})

    assert llm_calls([agent, span("execute_tool", {"gen_ai.operation.name": "execute_tool"}), span("anything")]) == []


def test_numbered_messages_are_read_in_order():
    attributes = {
        "gen_ai.request.model": "m",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "[1, 2] is a list?",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Yes",
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.prompt.10.role": "user",
        "gen_ai.prompt.10.content": "last",
        "gen_ai.prompt.2.role": "user",
        "gen_ai.prompt.2.content": "between",
    }

    [call] = llm_calls([span("openai.chat", attributes)])

    assert [message["content"] for message in call.messages] == ["[1, 2] is a list?", "between", "last"]
    assert (call.output, call.finish_reason) == ([{"role": "assistant", "content": "Yes"}], "stop")


def test_older_logfire_spans_are_read():
    attributes = {
        "request_data": {"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
        "response_data": {
            "message": {"role": "assistant", "content": "Hi"},
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        },
    }

    [call] = llm_calls([span("Chat Completion", attributes)])

    assert (call.dialect, call.messages[0]["content"], call.output[0]["content"]) == ("logfire", "Hello", "Hi")
    assert call.usage["total_tokens"] == 2


def test_truncated_body_is_completed_from_another_notation():
    attributes = {
        "agentlightning.response": '{"id": "x", "choices": [{"mess',
        "gen_ai.request.model": "m",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Hi",
    }

    [call] = llm_calls([wire_span("Hello", None, attributes=attributes)])

    assert (call.dialect, call.messages[0]["content"], call.output[0]["content"]) == ("wire", "Hello", "Hi")


def test_invalid_attributes_are_ignored():
    nonsense = {
        "agentlightning.request": "[1, 2",
        "agentlightning.response": '{"choices": {"a": 1}, "usage": 7, "id": null}',
        "gen_ai.prompt": "text",
        "gen_ai.prompt.x.y": 1,
        "gen_ai.request.model": "m",
    }

    [call] = llm_calls([span("openai.chat.completion", nonsense)])

    assert (call.messages, call.output, call.usage) == ([], [], {})
