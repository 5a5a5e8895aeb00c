"""A language model server with prepared responses, over real HTTP.

    with ScriptedModel() as model:                                  # echoes the last user message
        client = OpenAI(base_url=model.base_url, api_key="sk-test")

    ScriptedModel(lambda question: "Paris" if "France" in question else "I do not know")
    ScriptedModel(lambda call: Answer(status=500) if call.number == 1 else "well", takes_call=True)
    model.script("first answer", Answer(tool_calls=[("add", {"a": 1})]), Answer(status=500))

It serves OpenAI chat completions, completions, responses and embeddings and Anthropic messages, each whole and
streamed, on a free port in a thread of its own. `model.calls` holds every request, in order. A test that abandons a
call waits for it with `await model.wait_for_calls(1)` first, or the next test would find it among its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentlightning.http.server import GracefulServer
from tests.processes import TIMEOUT


@dataclass
class Answer:
    """The response to one request."""

    text: str | None = None
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Name and arguments of each tool call."""
    status: int = 200
    """HTTP status. With any status but 200, the body is an error in the format of the API."""
    gzip: bool = False
    """Compress the body, a stream chunk by chunk."""
    delay: float = 0.0
    """Seconds before the response starts."""
    break_after: int | None = None
    """Drop the connection after this many events of a stream."""
    token_ids: list[int] | None = None
    """As vLLM returns them with `return_token_ids`; those of the prompt are then [1, 2, 3]."""
    logprobs: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields to add to the body of a response that is not streamed."""

    @property
    def words(self) -> list[str]:
        """The text in the pieces of a stream."""
        return [word if index == 0 else f" {word}" for index, word in enumerate((self.text or "").split(" "))]


@dataclass(frozen=True)
class Call:
    """One request."""

    number: int
    """1 for the first request."""
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: str
    """The body as text."""

    @property
    def question(self) -> str:
        """The text of the last user message, or of the prompt."""
        prompt = self.body.get("messages") or self.body.get("input") or self.body.get("prompt") or ""
        if isinstance(prompt, list):
            prompt = next((item for item in reversed(prompt) if not isinstance(item, dict) or "role" in item), "")
            prompt = prompt["content"] if isinstance(prompt, dict) else prompt
        if isinstance(prompt, list):
            return "".join(part.get("text", "") for part in prompt)
        return str(prompt)


class ScriptedModel:
    """A model server, and the context manager that starts and stops it."""

    def __init__(
        self, answer: Callable[[Any], Answer | str] | str | None = None, *, takes_call: bool = False, port: int = 0
    ) -> None:
        self._rule = answer
        self._takes_call = takes_call
        self._port = port
        self._script: deque[Answer] = deque()
        self.calls: list[Call] = []
        self._called = threading.Condition()

    @property
    def url(self) -> str:
        """The base URL for Anthropic's SDK, without `/v1`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI's SDK, with `/v1`."""
        return f"{self.url}/v1"

    def script(self, *answers: Answer | str) -> None:
        """Use these responses for the next requests, in order; afterwards the rule applies again."""
        self._script.extend(answer if isinstance(answer, Answer) else Answer(answer) for answer in answers)

    def reset(self) -> ScriptedModel:
        """Clear calls and script."""
        self._script.clear()
        self.calls.clear()
        return self

    async def wait_for_calls(self, count: int) -> None:
        """Wait until this many requests have arrived."""

        def wait() -> None:
            with self._called:
                if not self._called.wait_for(lambda: len(self.calls) >= count, timeout=TIMEOUT):
                    raise TimeoutError(f"{len(self.calls)} of {count} calls have arrived")

        await asyncio.to_thread(wait)

    def start(self) -> ScriptedModel:
        """Start the server and return once it accepts connections."""
        listening = socket.create_server(("127.0.0.1", self._port), backlog=512)
        self._port = listening.getsockname()[1]
        self._server = GracefulServer(self._app(), drain_seconds=1)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="scripted-model", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the server and wait for its thread to end."""
        self._server.request_stop()
        self._thread.join()

    def __enter__(self) -> ScriptedModel:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _app(self) -> Starlette:
        routes = [Route(f"/v1/{path}", self._handler(dialect), methods=["POST"]) for path, dialect in _DIALECTS.items()]
        return Starlette(routes=[*routes, Route("/v1/models", _models)])

    def _handler(self, dialect: _Dialect) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            body = await request.json()
            call = Call(
                len(self.calls) + 1, request.url.path, dict(request.headers), body, (await request.body()).decode()
            )
            with self._called:
                self.calls.append(call)
                self._called.notify_all()
            answer = self._answer(call)
            await asyncio.sleep(answer.delay)
            if answer.status != 200:
                return JSONResponse(dialect.error(answer), status_code=answer.status)
            if body.get("stream"):
                return _stream(answer, dialect.events(call, answer))
            return _whole(answer, dialect.body(call, answer))

        return handle

    def _answer(self, call: Call) -> Answer:
        if self._script:
            return self._script.popleft()
        if self._rule is None:
            answer: Answer | str = f"You said: {call.question}"
        elif callable(self._rule):
            answer = self._rule(call if self._takes_call else call.question)
        else:
            answer = self._rule
        return answer if isinstance(answer, Answer) else Answer(answer)


@dataclass(frozen=True)
class _Dialect:
    body: Callable[[Call, Answer], dict[str, Any]]
    events: Callable[[Call, Answer], Iterator[str]]
    error: Callable[[Answer], dict[str, Any]]


async def _models(_: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "tests"}]})


def _whole(answer: Answer, body: dict[str, Any]) -> Response:
    content = json.dumps(body | answer.extra).encode()
    if not answer.gzip:
        return Response(content, media_type="application/json")
    compressor = zlib.compressobj(wbits=31)
    content = compressor.compress(content) + compressor.flush()
    return Response(content, media_type="application/json", headers={"content-encoding": "gzip"})


def _stream(answer: Answer, events: Iterator[str]) -> Response:
    compressor = zlib.compressobj(wbits=31) if answer.gzip else None

    async def chunks() -> AsyncIterator[bytes]:
        for number, event in enumerate(events):
            if number == answer.break_after:
                raise ConnectionAbortedError("scripted error")
            await asyncio.sleep(0)
            data = event.encode()
            yield compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH) if compressor else data
        if compressor:
            yield compressor.flush()

    headers = {"content-encoding": "gzip"} if answer.gzip else {}
    return StreamingResponse(chunks(), media_type="text/event-stream", headers=headers)


def _sse(data: dict[str, Any] | str, event: str | None = None) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {event}\ndata: {text}\n\n" if event else f"data: {text}\n\n"


def _openai_error(answer: Answer) -> dict[str, Any]:
    return {"error": {"message": answer.text or "scripted error", "type": "server_error", "code": None}}


def _usage(
    call: Call, answer: Answer, names: tuple[str, str] = ("prompt_tokens", "completion_tokens")
) -> dict[str, int]:
    prompt, completion = len(call.question.split()), len((answer.text or "").split())
    return {names[0]: prompt, names[1]: completion, "total_tokens": prompt + completion}


# OpenAI chat completions


def _chat_body(call: Call, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [_chat_tool_call(call, *item) for item in enumerate(answer.tool_calls)]
    choice = {"index": 0, "message": message, "logprobs": _logprobs(answer), "finish_reason": _finish(answer)}
    prompt = {}
    if answer.token_ids is not None:
        choice["token_ids"] = answer.token_ids
        prompt = {"prompt_token_ids": [1, 2, 3]}
    return {**_chat_head(call, "chat.completion"), "choices": [choice], "usage": _usage(call, answer), **prompt}


def _chat_events(call: Call, answer: Answer) -> Iterator[str]:
    head = _chat_head(call, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        return _sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]})

    prompt = {} if answer.token_ids is None else {"prompt_token_ids": [1, 2, 3]}
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    yield _sse({**head, "choices": [first], **prompt})
    for index, word in enumerate(answer.words if answer.text else ()):
        more: dict[str, Any] = {} if answer.token_ids is None else {"token_ids": answer.token_ids[index : index + 1]}
        yield chunk({"content": word}, logprobs=_logprob_words([word]) if answer.logprobs else None, **more)
    for index, item in enumerate(answer.tool_calls):
        tool_call = {"index": index, **_chat_tool_call(call, index, item)}
        arguments = tool_call["function"]["arguments"]
        tool_call["function"] = {"name": item[0], "arguments": ""}
        yield chunk({"tool_calls": [tool_call]})
        for piece in (arguments[:4], arguments[4:]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, _finish(answer))
    if (call.body.get("stream_options") or {}).get("include_usage"):
        yield _sse({**head, "choices": [], "usage": _usage(call, answer)})
    yield _sse("[DONE]")


def _chat_head(call: Call, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{call.number}", "object": kind, "created": 1760000000, "model": _model(call)}


def _chat_tool_call(call: Call, index: int, item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    function = {"name": item[0], "arguments": json.dumps(item[1])}
    return {"id": f"call_{call.number}_{index}", "type": "function", "function": function}


def _finish(answer: Answer) -> str:
    return "tool_calls" if answer.tool_calls else "stop"


def _logprobs(answer: Answer) -> dict[str, Any] | None:
    return _logprob_words(answer.words) if answer.logprobs else None


def _logprob_words(words: list[str]) -> dict[str, Any]:
    return {"content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in words]}


def _model(call: Call) -> str:
    return str(call.body.get("model", "scripted"))


# OpenAI completions


def _completion_body(call: Call, answer: Answer) -> dict[str, Any]:
    choice = {"index": 0, "text": answer.text or "", "logprobs": None, "finish_reason": "stop"}
    head = {"id": f"cmpl-{call.number}", "object": "text_completion", "created": 1760000000, "model": _model(call)}
    return {**head, "choices": [choice], "usage": _usage(call, answer)}


def _completion_events(call: Call, answer: Answer) -> Iterator[str]:
    body = _completion_body(call, answer)
    body.pop("usage")
    for word in answer.words:
        yield _sse({**body, "choices": [{"index": 0, "text": word, "logprobs": None, "finish_reason": None}]})
    yield _sse({**body, "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]})
    yield _sse("[DONE]")


# OpenAI embeddings


def _embedding_body(call: Call, answer: Answer) -> dict[str, Any]:
    given = call.body.get("input", "")
    texts = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "index": n, "embedding": [0.0, 0.5, 1.0]} for n in range(len(texts))]
    return {"object": "list", "data": data, "model": _model(call), "usage": {"prompt_tokens": 1, "total_tokens": 1}}


# OpenAI responses


def _response_body(call: Call, answer: Answer) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if answer.text is not None:
        text = {"type": "output_text", "text": answer.text, "annotations": []}
        message = {"type": "message", "id": f"msg_{call.number}", "role": "assistant", "status": "completed"}
        output.append({**message, "content": [text]})
    for index, (name, arguments) in enumerate(answer.tool_calls):
        ids = {"id": f"fc_{call.number}_{index}", "call_id": f"call_{call.number}_{index}"}
        function = {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "status": "completed"}
        output.append({**ids, **function})
    return {**_response_head(call, "completed"), "output": output, "usage": _response_usage(call, answer)}


def _response_events(call: Call, answer: Answer) -> Iterator[str]:
    counter = iter(range(1_000_000))

    def event(kind: str, **data: Any) -> str:
        return _sse({"type": kind, "sequence_number": next(counter), **data}, kind)

    whole = _response_body(call, answer)
    yield event("response.created", response={**_response_head(call, "in_progress"), "output": []})
    for index, item in enumerate(whole["output"]):
        yield event("response.output_item.added", output_index=index, item={**item, "content": []})
        if item["type"] == "message":
            at = {"item_id": item["id"], "output_index": index, "content_index": 0}
            empty = {"type": "output_text", "text": "", "annotations": []}
            yield event("response.content_part.added", **at, part=empty)
            for word in answer.words:
                yield event("response.output_text.delta", **at, delta=word, logprobs=[])
            yield event("response.output_text.done", **at, text=answer.text, logprobs=[])
            yield event("response.content_part.done", **at, part=item["content"][0])
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole)


def _response_head(call: Call, status: str) -> dict[str, Any]:
    head = {"id": f"resp_{call.number}", "object": "response", "created_at": 1760000000, "status": status}
    plain = {"error": None, "incomplete_details": None, "instructions": call.body.get("instructions"), "metadata": {}}
    tools = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": call.body.get("tools", [])}
    return {**head, **plain, **tools, "model": _model(call), "temperature": 1.0, "top_p": 1.0}


def _response_usage(call: Call, answer: Answer) -> dict[str, Any]:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {**_usage(call, answer, ("input_tokens", "output_tokens")), **details}


# Anthropic messages


def _message_body(call: Call, answer: Answer) -> dict[str, Any]:
    content: list[dict[str, Any]] = [] if answer.text is None else [{"type": "text", "text": answer.text}]
    for index, (name, arguments) in enumerate(answer.tool_calls):
        content.append({"type": "tool_use", "id": f"toolu_{call.number}_{index}", "name": name, "input": arguments})
    usage = _usage(call, answer, ("input_tokens", "output_tokens"))
    usage.pop("total_tokens")
    stop = "tool_use" if answer.tool_calls else "end_turn"
    return {**_message_head(call), "content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}


def _message_events(call: Call, answer: Answer) -> Iterator[str]:
    def event(kind: str, **data: Any) -> str:
        return _sse({"type": kind, **data}, kind)

    whole = _message_body(call, answer)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield event("message_start", message=start)
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            yield event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            deltas = [{"type": "text_delta", "text": word} for word in answer.words]
        else:
            yield event("content_block_start", index=index, content_block={**block, "input": {}})
            arguments = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in (arguments[:4], arguments[4:])]
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": whole["usage"]["output_tokens"]})
    yield event("message_stop")


def _message_head(call: Call) -> dict[str, Any]:
    return {"id": f"msg_{call.number}", "type": "message", "role": "assistant", "model": _model(call)}


def _anthropic_error(answer: Answer) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "api_error", "message": answer.text or "scripted error"}}


_DIALECTS = {
    "chat/completions": _Dialect(_chat_body, _chat_events, _openai_error),
    "completions": _Dialect(_completion_body, _completion_events, _openai_error),
    "embeddings": _Dialect(_embedding_body, _completion_events, _openai_error),
    "responses": _Dialect(_response_body, _response_events, _openai_error),
    "messages": _Dialect(_message_body, _message_events, _anthropic_error),
}
