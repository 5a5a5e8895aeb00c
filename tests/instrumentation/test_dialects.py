"""Dialects, with bodies that real servers send and the scripted model does not."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from agentlightning.instrumentation import sse
from agentlightning.instrumentation.call_record import request_attributes, response_attributes
from agentlightning.instrumentation.dialects import anthropic, dialect_of, openai


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"messages": []}, "openai.chat.completion"),
        ("/openai/deployments/gpt/chat/completions", {"messages": []}, "openai.chat.completion"),
        ("/rollout/ro-1/attempt/at-1/v1/chat/completions/", {"messages": []}, "openai.chat.completion"),
        ("/v1/completions", {"prompt": ""}, "openai.completion"),
        ("/v1/responses", {"input": ""}, "openai.responses"),
        ("/v1/embeddings", {"input": ""}, "openai.embeddings"),
        ("/v1/messages", {"messages": []}, "anthropic.messages"),
        ("/v1/messages", {"content": ""}, None),
        ("/v1/messages/count_tokens", {"messages": []}, None),
        ("/add_many_spans", {"spans": []}, None),
    ],
)
def test_dialect_follows_from_path_and_body(path: str, body: dict[str, Any], name: str | None) -> None:
    dialect = dialect_of(path, body)
    assert (dialect.span_name if dialect else None) == name


def test_events_are_parsed_in_every_notation() -> None:
    stream = b': ping\n\nevent: x\r\ndata:{"a":1}\r\n\r\ndata: {"b":\ndata: 2}\n\ndata: [DONE]\n\ndata: {"cut'
    assert list(sse.events(stream)) == [{"a": 1}, {"b": 2}]
    assert sse.has_ended(b"data: [DONE]\n\n", None)
    assert not sse.has_ended(b"", {"type": "content_block_delta"})


def test_irregular_chat_chunks_are_combined() -> None:
    def chunk(delta: Any, **more: Any) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": 0, "delta": delta, **more}], "usage": None}

    body = openai.CHAT.fold(
        [
            chunk({"role": "assistant", "reasoning_content": "Let me "}),
            chunk({"role": "assistant", "reasoning_content": "see."}),
            chunk(None),
            chunk({"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}),
            chunk({"tool_calls": [{"id": "2", "function": {"name": "g", "arguments": "{}"}}]}),
            chunk({"content": None}, finish_reason="tool_calls"),
            {"choices": [], "usage": {"total_tokens": 3}},
        ]
    )

    assert body["usage"] == {"total_tokens": 3}
    [choice] = body["choices"]
    assert choice["message"]["reasoning_content"] == "Let me see."
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["f", "g"]
    assert choice["finish_reason"] == "tool_calls"


def test_choices_are_combined_separately() -> None:
    pieces = [(0, "a"), (1, "x"), (0, "b"), (1, "y")]
    events = [{"choices": [{"index": index, "delta": {"content": text}}]} for index, text in pieces]
    assert [message.content for message in openai.CHAT.answer(openai.CHAT.fold(events))] == ["ab", "xy"]


def test_log_probabilities_of_completions_are_concatenated() -> None:
    def event(token: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "text": token, "logprobs": {"tokens": [token], "token_logprobs": [-1.0]}}]}

    [choice] = openai.COMPLETIONS.fold([event("a"), event("b")])["choices"]
    assert choice["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0]}


def test_prompt_of_token_ids_is_recorded_as_json() -> None:
    assert request_attributes(openai.COMPLETIONS, {"prompt": [1, 2, 3]})["gen_ai.prompt.0.content"] == "[1,2,3]"


def test_interrupted_anthropic_stream_is_combined() -> None:
    body = anthropic.MESSAGES.fold(
        [
            {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "input": {}}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a'}},
        ]
    )
    assert body["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "tool_use", "id": "t", "input": '{"a'},
    ]


def test_input_items_of_responses_are_a_conversation() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Add."}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Easy."}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    attributes = request_attributes(openai.RESPONSES, {"input": items})
    assert [attributes[f"gen_ai.prompt.{n}.role"] for n in range(4)] == ["user", "assistant", "assistant", "tool"]
    assert (attributes["gen_ai.prompt.0.content"], attributes["gen_ai.prompt.3.content"]) == ("Add.", "2")


def test_incomplete_response_has_a_finish_reason() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}]
    body = {"output": output, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert response_attributes(openai.RESPONSES, body)["gen_ai.completion.0.finish_reason"] == "length"


@pytest.mark.parametrize("body", [{}, {"choices": None}, {"choices": [{}]}, {"choices": ["?"], "usage": []}])
def test_malformed_bodies_raise_no_error(body: dict[str, Any]) -> None:
    for dialect in (openai.CHAT, openai.COMPLETIONS, openai.RESPONSES, anthropic.MESSAGES):
        response_attributes(dialect, body)
        request_attributes(dialect, {dialect.input_field: None})


def _chat(delta: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


@pytest.mark.parametrize(
    ("dialect", "first", "piece"),
    [
        (openai.CHAT, {}, _chat({"content": "x" * 50})),
        (
            openai.CHAT,
            _chat({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}),
            _chat({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 50}}]}),
        ),
        (openai.RESPONSES, {}, {"type": "response.output_text.delta", "delta": "x" * 50}),
        (openai.RESPONSES, {}, {"type": "response.function_call_arguments.delta", "delta": "x" * 50}),
        (
            anthropic.MESSAGES,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 50}},
        ),
        (
            anthropic.MESSAGES,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"citation": {}}},
        ),
    ],
    ids=["chat", "tool calls", "responses", "function calls", "messages", "citations"],
)
def test_events_are_combined_in_linear_time(dialect: Any, first: dict[str, Any], piece: dict[str, Any]) -> None:
    events = [orjson.loads(orjson.dumps(event)) for event in [first, *[piece] * 60_000]]
    started = time.process_time()

    body = dialect.fold(events)

    assert time.process_time() - started < 2
    assert len(orjson.dumps(body)) > 120_000


def test_growing_number_of_fields_is_combined_in_linear_time() -> None:
    started = time.process_time()

    openai.RESPONSES.fold([{"type": "response.created", "response": {str(n): n}} for n in range(30_000)])
    anthropic.MESSAGES.fold([{"type": "message_delta", "usage": {str(n): n}} for n in range(30_000)])

    assert time.process_time() - started < 2


def test_index_of_a_part_does_not_determine_the_memory() -> None:
    delta = {"type": "response.output_text.delta", "content_index": 10**12, "delta": "x"}

    body = openai.RESPONSES.fold([delta])

    assert body["output"] == [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_event_buffer_returns_complete_events_for_chunks_of_every_size(size: int) -> None:
    stream = b"data: 1\n\ndata: 2\r\n\r\nevent: x\ndata: 3\n\r\n\n\ndata: 4\r\rdata: 5\n"
    buffer = sse.EventBuffer()

    blocks = [buffer.add(stream[start : start + size]) for start in range(0, len(stream), size)]

    assert all(block.endswith((b"\n\n", b"\n\r\n", b"\r\r")) for block in blocks if block)
    assert b"".join(blocks) == stream[: stream.index(b"data: 5")]
    assert buffer.take() == b"data: 5\n"


def test_event_buffer_takes_linear_time_without_the_end_of_an_event() -> None:
    buffer, chunk, started = sse.EventBuffer(), b"data: x\n" * 128, time.process_time()

    blocks = [buffer.add(chunk) for _ in range(64 * 1024)]

    assert time.process_time() - started < 2
    assert (any(blocks), buffer.size) == (False, 64 * 1024 * len(chunk))
