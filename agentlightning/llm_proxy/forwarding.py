"""Forwarding of agents' calls to model servers.

The span that records a call is stored before the agent receives the end of the response.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from starlette.types import Send

from ..instrumentation import sse
from ..instrumentation.call_record import parse_object
from ..instrumentation.dialects.base import Json, as_object, items
from ..retry import RetryPolicy
from .auth import ProxyRequest
from .recording import CallRecorder
from .routing import Engine, ModelServer, ProxyError

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
RETRY_POLICY = RetryPolicy(first_delay=0.2, max_delay=8.0)

_RETURNED_HEADERS = ("content-type", "retry-after", "request-id", "x-request-id")
_RETURNED_HEADER_PREFIXES = ("openai-", "anthropic-", "x-ratelimit-")


class ForwardedCall:
    """One model call that is forwarded to a model server."""

    def __init__(self, request: ProxyRequest, server: ModelServer, recorder: CallRecorder) -> None:
        self._call = request
        self._server = server
        self._recording = recorder.start(request, server)
        self._injected = InjectedParameters()
        self._prompt: asyncio.Task[list[int] | None] | None = None
        """Task that requests the prompt's token ids while the server generates the response. None if not required."""
        self._has_started = False
        """True once the proxy has started to send the response to the agent."""

    async def forward(self, send: Send) -> None:
        """Forward the call to the server, and the server's response to the agent.

        Raises `ProxyError` if the server cannot be reached or does not respond in time.
        """
        try:
            if self._recording is not None:
                await self._inject_parameters()
            await self._request(send)
        except BaseException as error:
            await self._record_failure(error)
            raise
        finally:
            if self._prompt is not None:
                self._prompt.cancel()

    # Request

    async def _inject_parameters(self) -> None:
        path, body = self._call.target.path, self._call.body
        engine = await self._server.engine()
        self._injected = parameters_to_inject(path, engine, body)
        if engine == "llama.cpp" and self._injected:
            self._prompt = asyncio.create_task(self._server.prompt_token_ids(path, body))

    async def _request(self, send: Send) -> None:
        """Send the call. If it fails before the response to the agent has started, retry it within the retry limit."""
        body, retries = self._body(), self._server.upstream.retries
        for attempt in range(retries + 1):
            delay = await self._try(body, send, is_last=attempt == retries)
            if delay is None:
                return
            await asyncio.sleep(delay or RETRY_POLICY.delay(attempt))

    async def _try(self, body: bytes, send: Send, *, is_last: bool) -> float | None:
        """Send the call once. Return None after the response has been forwarded to the agent.

        If the call should be retried, return the delay in seconds that the server requested, or 0 if it requested none.
        """
        call = self._call
        try:
            async with self._server.post(call.target.path, body, call.headers, call.client_key) as response:
                if response.status in RETRIED_STATUSES and not is_last:
                    return _retry_after(response)
                if "text/event-stream" in response.headers.get("content-type", ""):
                    await self._return_stream(response, send)
                else:
                    await self._return_whole(response, send)
                return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if self._has_started:
                raise
            if is_last:
                raise self._unreachable(error) from error
            return 0.0

    def _body(self) -> bytes:
        model = self._server.upstream.model
        renamed = {"model": model} if model is not None and model != self._call.body.get("model") else {}
        if not renamed and not self._injected:
            return self._call.content
        return orjson.dumps({**self._call.body, **renamed, **self._injected.fields})

    def _unreachable(self, error: Exception) -> ProxyError:
        name = self._server.upstream.name
        if isinstance(error, TimeoutError):
            return ProxyError(f"the server for model {name!r} did not respond in time", 504)
        return ProxyError(f"the server for model {name!r} is unreachable: {type(error).__name__}", 502)

    # Response

    async def _return_whole(self, response: aiohttp.ClientResponse, send: Send) -> None:
        content = await response.read()
        if self._recording is not None:
            self._recording.set_response(response.status, content)
        await self._store_span()
        if self._injected:
            body = self._injected.strip(parse_object(content))
            content = orjson.dumps(body) if body else content
        await self._start_response(response, send, (b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.body", "body": content})

    async def _return_stream(self, response: aiohttp.ClientResponse, send: Send) -> None:
        if self._recording is not None:
            self._recording.start_stream(response.status)
        incomplete = b""
        async for chunk in response.content.iter_any():
            if self._recording is not None:
                self._recording.append(chunk)
            if not self._has_started:
                await self._start_response(response, send)
            *events, incomplete = _END_OF_EVENT.split(incomplete + chunk)
            final = next((index for index, event in enumerate(events) if _is_final(event)), len(events))
            await self._send_events(events[:final], send)
            if final < len(events):
                await self._store_span()
                await self._send_events(events[final:], send)
        if not self._has_started:
            await self._start_response(response, send)
        await self._store_span()
        await send({"type": "http.response.body", "body": incomplete})

    async def _start_response(
        self, response: aiohttp.ClientResponse, send: Send, *headers: tuple[bytes, bytes]
    ) -> None:
        self._has_started = True
        returned = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.items()
            if name.lower() in _RETURNED_HEADERS or name.lower().startswith(_RETURNED_HEADER_PREFIXES)
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": [*returned, *headers]})

    async def _send_events(self, events: list[bytes], send: Send) -> None:
        if self._injected:
            events = [self._injected.strip_event(event) for event in events]
        if body := b"".join(events):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    # Recording

    async def _store_span(self) -> None:
        """Store the call's span unless it is already stored. Called before the agent receives the response's end."""
        if self._recording is not None:
            await self._recording.store(await self._prompt if self._prompt is not None else None)

    async def _record_failure(self, error: BaseException) -> None:
        if self._recording is not None:
            self._recording.fail(None if isinstance(error, asyncio.CancelledError) else error)
            # `shield` runs `store` in a separate task, which continues if the current task is cancelled.
            await asyncio.shield(self._recording.store())


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the delay in seconds from the Retry-After header, limited to `RETRY_POLICY.max_delay`.

    Return 0 if the header is missing or does not contain a number of seconds.
    """
    value = response.headers.get("retry-after", "")
    return min(float(value), RETRY_POLICY.max_delay) if value.replace(".", "", 1).isdigit() else 0.0


# Parameters that the proxy adds to requests to get token ids
#
# Training needs token ids and log probabilities, so the proxy requests them. If the agent did not request them itself,
# they are removed from the response. The parameters are added only if the server's inference engine is known to support
# them.

_SUPPORTED: dict[tuple[str, Engine], Json] = {
    ("chat/completions", "vllm"): {"logprobs": True, "return_token_ids": True},
    ("completions", "vllm"): {"logprobs": 1, "return_token_ids": True},
    # Without top_logprobs, llama.cpp returns 20 alternatives per token. With top_logprobs=0, it omits all logprobs.
    ("chat/completions", "llama.cpp"): {"logprobs": True, "top_logprobs": 1},
    ("completions", "llama.cpp"): {"logprobs": 1},
}
_TOKEN_IDS = ("token_ids", "prompt_token_ids")


@dataclass(frozen=True)
class InjectedParameters:
    """Parameters that the proxy adds to a request. The resulting fields are removed from the response."""

    fields: Json = field(default_factory=dict[str, Any])

    def __bool__(self) -> bool:
        return bool(self.fields)

    def strip(self, response: Json) -> Json:
        """Remove the fields that the agent did not request, and return the modified `response`.

        `response` is a whole response, or one chunk of a streamed response.
        """
        hidden = ("logprobs",) if "logprobs" in self.fields else ()
        token_ids = _TOKEN_IDS if "return_token_ids" in self.fields else ()
        for name in token_ids:
            response.pop(name, None)
        for choice in items(response.get("choices")):
            for name in (*hidden, *token_ids):
                choice.pop(name, None)
        return response

    def strip_event(self, event: bytes) -> bytes:
        """Return a stream's event without the fields that the agent did not request.

        Return empty bytes if the server sent the event only because of the added parameters.
        """
        head, mark, data = event.partition(b"data:")
        chunk = parse_object(data)
        if not chunk:
            return event
        if "stream_options" in self.fields and "usage" in chunk:
            if not chunk.get("choices"):
                return b""
            del chunk["usage"]
        return b"%b%b %b\n\n" % (head, mark, orjson.dumps(self.strip(chunk)))


def parameters_to_inject(path: str, engine: Engine, request: Json) -> InjectedParameters:
    """Return the parameters to add to a request before it is sent to a server that runs `engine`."""
    supported = _SUPPORTED.get((path, engine))
    if supported is None:
        return InjectedParameters()
    fields = {name: value for name, value in supported.items() if request.get(name) is None}
    if request.get("logprobs") is not None:  # the agent's own settings determine the number of alternatives per token
        fields.pop("top_logprobs", None)
    options = as_object(request.get("stream_options"))
    if request.get("stream") and not options.get("include_usage"):
        fields["stream_options"] = {**options, "include_usage": True}
    return InjectedParameters(fields)


# Server-sent events

_END_OF_EVENT = re.compile(rb"(?<=\n\n)|(?<=\n\r\n)")
"""Matches the position after the empty line that ends an event."""
_FINAL_MARKERS = (b"[DONE]", b"message_stop", b"response.", b"error")


def _is_final(event: bytes) -> bool:
    """Return True if `event` is the last event of a stream."""
    if not any(marker in event for marker in _FINAL_MARKERS):
        return False
    is_done = event.partition(b"data:")[2].strip() == b"[DONE]"
    return is_done or sse.has_ended(b"", next(iter(sse.events(event)), None))
