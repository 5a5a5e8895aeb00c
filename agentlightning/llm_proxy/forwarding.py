"""Forwarding of agents' calls to model servers.

The span that records a call is stored before the agent receives the end of the response.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, NoReturn

import aiohttp
import orjson
from starlette.types import Send

from ..errors import StoreBusy, TooLarge
from ..http.limits import Limits, Permit
from ..instrumentation import sse
from ..instrumentation.call_record import parse_object
from ..instrumentation.dialects.base import Json, as_object, items
from ..payload import check_size
from ..retry import RetryPolicy
from .auth import ProxyRequest
from .errors import ProxyError, error_event, too_busy, too_many_values
from .recording import CallRecorder
from .responses import UpstreamResponse, offload_if_large
from .routing import Engine, ModelServer

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
RETRY_POLICY = RetryPolicy(first_delay=0.2, max_delay=8.0)
_MAX_SMALL_EVENTS = 16 * 1024
"""Maximum total size, in bytes, of events that are split in the event loop. Even these may be 2,000 events."""


class ForwardedCall:
    """One model call that is forwarded to a model server."""

    def __init__(self, request: ProxyRequest, server: ModelServer, recorder: CallRecorder, permit: Permit) -> None:
        self._call = request
        self._permit = permit
        self._server = server
        self._recording = recorder.start(request, server)
        self._injected = InjectedParameters()
        self._prompt: asyncio.Task[list[int] | None] | None = None
        """Task that requests the prompt's token ids while the server generates the response. None if not required."""
        self._has_started = False
        """True once the proxy has started to send the response to the agent."""

    async def forward(self, send: Send) -> None:
        """Forward the call to the server, and the server's response to the agent.

        Raises `ProxyError` if the call fails, for example because the server is unreachable or the response exceeds a
        limit. If a stream to the agent has already started, an event that contains the error is sent first.
        """
        limit = self._server.limits.upstream_seconds
        try:
            async with asyncio.timeout(limit):
                if self._recording is not None:
                    await self._inject_parameters()
                await self._request(send)
        except TimeoutError:
            message = f"the call took longer than {limit:g} s; raise --call-seconds (Limits.upstream_seconds)"
            await self._fail(ProxyError(message, 504), send)
        except BaseException as error:
            await self._fail(error, send)
        finally:
            if self._prompt is not None:
                self._prompt.cancel()

    async def _fail(self, error: BaseException, send: Send) -> NoReturn:
        await self._record_failure(error)
        if self._has_started and isinstance(error, ProxyError):
            await send({"type": "http.response.body", "body": error_event(error), "more_body": True})
        raise error

    # Request

    async def _inject_parameters(self) -> None:
        path, body = self._call.target.path, self._call.body
        engine = await self._server.engine()
        self._injected = parameters_to_inject(path, engine, body)
        if engine == "llama.cpp" and self._injected:
            self._prompt = asyncio.create_task(self._server.prompt_token_ids(path, body))

    async def _request(self, send: Send) -> None:
        """Send the call. If it fails before the response to the agent has started, retry it within the retry limit."""
        body, retries = await offload_if_large(len(self._call.content), self._body), self._server.upstream.retries
        for attempt in range(retries + 1):
            delay = await self._try(body, send, is_last=attempt == retries)
            if delay is None:
                return
            await asyncio.sleep(delay or RETRY_POLICY.delay(attempt))

    async def _try(self, body: bytes, send: Send, *, is_last: bool) -> float | None:
        """Send the call once. Return None after the response has been forwarded to the agent.

        If the call should be retried, return the delay in seconds that the server requested, or 0 if it requested none.
        """
        call, server = self._call, self._server
        try:
            async with server.post(call.target.path, body, call.headers, call.client_key) as received:
                response = UpstreamResponse(received, server.upstream, server.limits)
                if response.status in RETRIED_STATUSES and not is_last:
                    return min(response.retry_after or 0.0, RETRY_POLICY.max_delay)
                if response.is_stream:
                    await self._return_stream(response, send)
                else:
                    await self._return_whole(response, send)
                return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if is_last or self._has_started:
                raise self._connection_error(error) from None
            return 0.0

    def _body(self) -> bytes:
        model = self._server.upstream.model
        renamed = {"model": model} if model is not None and model != self._call.body.get("model") else {}
        if not renamed and not self._injected:
            return self._call.content
        try:
            return orjson.dumps({**self._call.body, **renamed, **self._injected.fields})
        except TypeError:  # the values come from JSON, so only orjson's limit on nesting can cause this
            raise ProxyError("the request body is nested too deeply", 400) from None

    def _connection_error(self, error: Exception) -> ProxyError:
        # The message of `error` is left out, because it may quote the response, which may contain an API key.
        name, kind = self._server.upstream.name, type(error).__name__
        if isinstance(error, TimeoutError):
            return ProxyError(f"the server for model {name!r} did not respond in time", 504)
        if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)):
            return ProxyError(f"the server for model {name!r} sent an invalid or incomplete response: {kind}", 502)
        return ProxyError(f"the server for model {name!r} is unreachable: {kind}", 502)

    # Response

    async def _return_whole(self, response: UpstreamResponse, send: Send) -> None:
        content = b"".join([self._reserved(chunk) async for chunk in response.chunks()])
        content = await offload_if_large(len(content), self._record_whole, response, content)
        await self._store_span()
        await self._start_response(response, send, (b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.body", "body": content})

    def _reserved(self, chunk: bytes) -> bytes:
        """Reserve capacity for a chunk that is kept until the call ends, and return the chunk.

        Raises `ProxyError` if the proxy is at its limit.
        """
        try:
            self._permit.reserve(len(chunk))
        except StoreBusy:
            raise too_busy() from None
        return chunk

    def _record_whole(self, response: UpstreamResponse, content: bytes) -> bytes:
        """Record the response. Return its content without API keys and fields that the agent did not request."""
        content = response.without_keys(content)
        if self._recording is not None:
            self._recording.set_response(response.status, content)
        return self._injected.strip_body(content) if self._injected else content

    async def _return_stream(self, response: UpstreamResponse, send: Send) -> None:
        if self._recording is not None:
            self._recording.start_stream(response.status)
        buffer = sse.EventBuffer()
        try:
            async for chunk in response.chunks():
                if not self._has_started:
                    await self._start_response(response, send)
                events = buffer.add(chunk)
                if problem := _exceeded_limit(events, buffer, self._server.limits):
                    raise response.error(problem)
                if events:
                    await self._return_events(response.without_keys(events), send)
        finally:
            incomplete = response.without_keys(buffer.take())
            if self._recording is not None:
                self._recording.append(incomplete)
        if not self._has_started:
            await self._start_response(response, send)
        await self._store_span()
        await send({"type": "http.response.body", "body": incomplete})

    async def _return_events(self, events: bytes, send: Send) -> None:
        """Record complete events and send them to the agent. Before the stream's final event, store the span."""
        if self._recording is not None:
            self._recording.append(self._reserved(events))
        final = b""
        if self._injected or any(marker in events for marker in _FINAL_MARKERS):
            split = self._split_at_final_event
            is_large = len(events) > _MAX_SMALL_EVENTS
            events, final = await asyncio.to_thread(split, events) if is_large else split(events)
        if events:
            await send({"type": "http.response.body", "body": events, "more_body": True})
        if final:
            await self._store_span()
            await send({"type": "http.response.body", "body": final, "more_body": True})

    def _split_at_final_event(self, block: bytes) -> tuple[bytes, bytes]:
        """Split complete events into those before the stream's final event, and the final event with any later ones.

        Also remove the fields that the agent did not request.
        """
        events = sse.split_events(block)
        final = next((index for index, event in enumerate(events) if _is_final(event)), len(events))
        if self._injected:
            events = [self._injected.strip_event(event) for event in events]
        return b"".join(events[:final]), b"".join(events[final:])

    async def _start_response(self, response: UpstreamResponse, send: Send, *headers: tuple[bytes, bytes]) -> None:
        self._has_started = True
        headers = (*response.headers(), *headers)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})

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

    def strip_body(self, content: bytes) -> bytes:
        """Return the body of a whole response without the fields that the agent did not request.

        Return it unchanged if it is not a JSON object or is nested too deeply.
        """
        body = parse_object(content)
        return _dump(self.strip(body)) or content if body else content

    def strip_event(self, event: bytes) -> bytes:
        """Return a stream's event without the fields that the agent did not request.

        Return empty bytes if the server sent the event only because of the added parameters. Return the event unchanged
        if its data is not a JSON object or is nested too deeply.
        """
        head, mark, data = event.partition(b"data:")
        chunk = parse_object(data)
        if not chunk:
            return event
        if "stream_options" in self.fields and "usage" in chunk:
            if not chunk.get("choices"):
                return b""
            del chunk["usage"]
        stripped = _dump(self.strip(chunk))
        return b"%b%b %b\n\n" % (head, mark, stripped) if stripped else event


def _dump(body: Json) -> bytes:
    """Serialize a JSON object. Return empty bytes if it is nested too deeply for orjson.

    orjson parses JSON that is nested more deeply than it can serialize.
    """
    try:
        return orjson.dumps(body)
    except TypeError:
        return b""


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

_FINAL_MARKERS = (b"[DONE]", b'"message_stop"', b'"response.', b'"error"')


def _exceeded_limit(events: bytes, buffer: sse.EventBuffer, limits: Limits) -> str | None:
    """Return the description of a stream that exceeds a limit with these events, or None if it does not."""
    if buffer.size > limits.upstream_event:
        return f"sent an event larger than {limits.upstream_event} bytes; raise --max-event (Limits.upstream_event)"
    if buffer.events > limits.upstream_events:
        return f"sent more than {limits.upstream_events} events; raise --max-events (Limits.upstream_events)"
    try:
        for event in sse.split_events(events) if len(events) > limits.values else ():
            check_size(event, values=limits.values)
    except TooLarge:
        return f"sent an event that {too_many_values(limits.values)}"
    return None


def _is_final(event: bytes) -> bool:
    """Return True if `event` is the last event of a stream."""
    if not any(marker in event for marker in _FINAL_MARKERS):
        return False
    is_done = event.partition(b"data:")[2].strip() == b"[DONE]"
    return is_done or (b'"type"' in event and sse.has_ended(b"", next(iter(_objects(event)), None)))


def _objects(event: bytes) -> list[Json]:
    """Return the JSON objects in the data of one event, or an empty list if the event has too many values."""
    try:
        return sse.events(event)
    except TooLarge:
        return []
