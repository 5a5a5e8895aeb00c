"""Calls of the OpenAI SDK without streaming: the record, and no effect on the user."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.scripted_model import Answer, ScriptedModel

from .conftest import gen_ai, raw, recorded

HELLO: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
ADD: Any = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


async def test_chat_completion_is_one_span_in_both_conventions(model: ScriptedModel, client: OpenAI) -> None:
    model.script("Because of scattering.")
    async with recorded() as spans:
        answer = client.chat.completions.create(model="gpt-4.1-nano", messages=HELLO, temperature=0.5)

    assert answer.choices[0].message.content == "Because of scattering."
    [span] = spans
    assert span.name == "openai.chat.completion"
    assert span.attributes == {
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Why is the sky blue?",
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"Why is the sky blue?"}]}]',
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1-nano",
        "gen_ai.request.temperature": 0.5,
        "agentlightning.request": model.calls[0].raw,
        "server.address": "127.0.0.1",
        "server.port": int(model.url.rpartition(":")[2]),
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "agentlightning.response": span.attributes["agentlightning.response"],
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Because of scattering.",
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"Because of scattering."}],'
        '"finish_reason":"stop"}]',
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4.1-nano",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.prompt_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.completion_tokens": 3,
        "gen_ai.usage.total_tokens": 8,
    }
    assert raw(span, "response")["choices"][0]["message"]["content"] == "Because of scattering."


async def test_call_of_async_client_is_recorded(model: ScriptedModel) -> None:
    async with recorded() as spans, AsyncOpenAI(base_url=model.base_url, api_key="none") as client:
        await client.chat.completions.create(model="m", messages=HELLO)

    assert [gen_ai(span, "completion.0.content") for span in spans] == [
        {"completion.0.content": "You said: Why is the sky blue?"}
    ]


async def test_tool_calls_and_their_results_are_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer(tool_calls=[("add", {"a": 1})]), "2")
    async with recorded() as spans:
        message = client.chat.completions.create(model="m", messages=HELLO, tools=[ADD]).choices[0].message
        assert message.tool_calls
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "one more is two"}
        messages = [*HELLO, message.model_dump(exclude_none=True), result]
        client.chat.completions.create(model="m", messages=messages, tools=[ADD])

    first, second = spans
    assert json.loads(first.attributes["gen_ai.tool.definitions"]) == [ADD]
    assert gen_ai(first, "completion.0.finish_reason", "completion.0.content") == {
        "completion.0.finish_reason": "tool_calls",
        "completion.0.content": None,
    }
    call = {"type": "tool_call", "id": "call_1_0", "name": "add", "arguments": {"a": 1}}
    assert json.loads(first.attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [call], "finish_reason": "tool_calls"}
    ]
    assert json.loads(second.attributes["gen_ai.input.messages"])[1:] == [
        {"role": "assistant", "parts": [call]},
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_1_0", "response": "one more is two"}],
        },
    ]
    prefix = "prompt.1.tool_calls.0"
    assert gen_ai(second, f"{prefix}.id", f"{prefix}.name", f"{prefix}.arguments", "prompt.2.tool_call_id") == {
        f"{prefix}.id": "call_1_0",
        f"{prefix}.name": "add",
        f"{prefix}.arguments": '{"a":1}',
        "prompt.2.tool_call_id": "call_1_0",
    }


async def test_token_ids_and_logprobs_are_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer("a b", token_ids=[7, 8], logprobs=True))
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=HELLO, logprobs=True, extra_body={"return_token_ids": True})

    [span] = spans
    assert raw(span, "request")["return_token_ids"] is True
    assert span.attributes["agentlightning.prompt_token_ids"] == "[1,2,3]"
    assert span.attributes["agentlightning.token_ids"] == "[7,8]"
    assert [entry["token"] for entry in json.loads(span.attributes["agentlightning.logprobs"])["content"]] == [
        "a",
        " b",
    ]


async def test_images_are_recorded_without_their_bytes_in_the_messages(model: ScriptedModel, client: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])  # pyright: ignore

    assert json.loads(spans[0].attributes["gen_ai.input.messages"])[0]["parts"] == [
        {"type": "text", "content": "What is this?"},
        {"type": "blob", "modality": "image", "mime_type": "image/png"},
    ]
    assert json.loads(spans[0].attributes["gen_ai.prompt.0.content"]) == content


class Sky(BaseModel):
    colour: str


async def test_parse_returns_its_object_and_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script('{"colour": "blue"}')
    async with recorded() as spans:
        parsed = client.chat.completions.parse(model="m", messages=HELLO, response_format=Sky)

    assert parsed.choices[0].message.parsed == Sky(colour="blue")
    assert gen_ai(spans[0], "completion.0.content") == {"completion.0.content": '{"colour": "blue"}'}


async def test_response_is_recorded_if_parsing_it_fails(model: ScriptedModel, client: OpenAI) -> None:
    model.script("not JSON")
    async with recorded() as spans:
        with pytest.raises(ValueError, match="JSON"):
            client.chat.completions.parse(model="m", messages=HELLO, response_format=Sky)

    assert gen_ai(spans[0], "completion.0.content") == {"completion.0.content": "not JSON"}


async def test_raw_responses_are_of_the_sdks_types(model: ScriptedModel, client: OpenAI) -> None:
    async with recorded() as spans:
        plain = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO) as streamed:
            body = streamed.read()

    assert plain.parse().id == "chatcmpl-1"
    assert json.loads(body)["id"] == "chatcmpl-2"
    assert [gen_ai(span, "response.id") for span in spans] == [
        {"response.id": "chatcmpl-1"},
        {"response.id": "chatcmpl-2"},
    ]


async def test_compressed_response_is_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer("small", gzip=True))
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=HELLO)

    assert gen_ai(spans[0], "completion.0.content") == {"completion.0.content": "small"}


async def test_completions_embeddings_and_responses_are_recorded(model: ScriptedModel, client: OpenAI) -> None:
    model.script("one", "two", Answer("three", tool_calls=[("add", {"a": 1})]))
    async with recorded() as spans:
        client.completions.create(model="m", prompt=["tell me", "and me"])
        client.embeddings.create(model="m", input=["a", "b"])
        client.responses.create(model="m", instructions="Be brief.", input="Hello", tools=[])

    completion, embeddings, responses = spans
    assert [span.name for span in spans] == ["openai.completion", "openai.embeddings", "openai.responses"]
    assert gen_ai(completion, "prompt.0.content", "prompt.1.content", "completion.0.content") == {
        "prompt.0.content": "tell me",
        "prompt.1.content": "and me",
        "completion.0.content": "one",
    }
    assert gen_ai(embeddings, "prompt.1.content", "operation.name", "usage.input_tokens") == {
        "prompt.1.content": "b",
        "operation.name": "embeddings",
        "usage.input_tokens": 1,
    }
    assert gen_ai(responses, "prompt.0.role", "prompt.0.content", "prompt.1.content", "completion.0.content") == {
        "prompt.0.role": "system",
        "prompt.0.content": "Be brief.",
        "prompt.1.content": "Hello",
        "completion.0.content": "three",
    }
    assert responses.attributes["gen_ai.completion.0.finish_reason"] == "tool_calls"


async def test_server_error_is_recorded_and_reaches_the_user_unchanged(model: ScriptedModel, client: OpenAI) -> None:
    model.script(Answer("overloaded", status=500))
    async with recorded() as spans:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="m", messages=HELLO)

    assert caught.value.status_code == 500
    [span] = spans
    assert (span.status.status_code, span.status.description) == ("ERROR", "HTTP 500: overloaded")
    assert span.attributes["http.response.status_code"] == 500
    assert gen_ai(span, "prompt.0.content", "completion.0.content") == {
        "prompt.0.content": "Why is the sky blue?",
        "completion.0.content": None,
    }


async def test_each_retry_of_the_sdk_is_a_span_with_its_number(model: ScriptedModel) -> None:
    model.script(Answer(status=500), "well")
    async with recorded() as spans:
        with OpenAI(base_url=model.base_url, api_key="none", max_retries=1) as client:
            client.chat.completions.create(model="m", messages=HELLO)

    assert [(span.status.status_code, span.attributes.get("http.request.resend_count")) for span in spans] == [
        ("ERROR", None),
        ("UNSET", 1),
    ]


async def test_refused_connection_is_recorded_as_an_error() -> None:
    async with recorded() as spans:
        with (
            OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.APIConnectionError),
        ):
            client.chat.completions.create(model="m", messages=HELLO)

    [span] = spans
    assert span.status.status_code == "ERROR"
    assert str(span.status.description).startswith("ConnectError: ")
    assert span.attributes["error.type"] == "ConnectError"


async def test_keys_are_redacted_in_requests_responses_and_errors(model: ScriptedModel, client: OpenAI) -> None:
    model.script(
        Answer("your key is sk-proj-0123456789abcdef"), Answer("Bearer abc.def-0123456789 is wrong", status=401)
    )
    messages: list[Any] = [{"role": "user", "content": "my key is sk-ant-api03-0123456789"}]
    async with recorded() as spans:
        client.chat.completions.create(model="m", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="m", messages=messages)

    recorded_text = "".join(span.model_dump_json() for span in spans)
    assert model.calls[0].headers["authorization"] == "Bearer sk-secret-0123456789"
    assert "0123456789" not in recorded_text
    assert gen_ai(spans[0], "prompt.0.content", "completion.0.content") == {
        "prompt.0.content": "my key is [redacted]",
        "completion.0.content": "your key is [redacted]",
    }
    assert spans[1].status.description == "HTTP 401: [redacted] is wrong"
