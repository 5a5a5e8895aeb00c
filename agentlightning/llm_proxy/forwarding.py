"""One call: forwarded to a model server, with the span stored before the agent receives the end of the response."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import aiohttp
import orjson
from starlette.types import Send

from ..http.auth import Headers
from ..instrumentation import sse
from ..instrumentation.dialects.base import Json, as_object
from ..retry import RetryPolicy
from .auth import RequestTarget
from .injected_parameters import InjectedParameters, parameters_to_inject
from .model_server import ModelServer
from .proxy_errors import ProxyError
from .recording import CallRecorder

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
RETRY_POLICY = RetryPolicy(first_delay=0.2, max_delay=8.0)

_RETURNED_HEADERS = ("content-type", "retry-after", "request-id", "x-request-id")
_RETURNED_HEADER_PREFIXES = ("openai-", "anthropic-", "x-ratelimit-")


@dataclass
class ProxyRequest:
    """A call as the agent sent it."""

    target: RequestTarget
    headers: Headers
    content: bytes
    body: Json
    client_key: str | None
    """The agent's own API key, for an upstream without a configured one."""


class ForwardedCall:
    """One call, and the server that it is forwarded to."""

    def __init__(self, request: ProxyRequest, server: ModelServer, recorder: CallRecorder) -> None:
        self._call = request
        self._server = server
        self._recording = recorder.start(request.target, request.content, request.body, request.headers, server)
        self._injected = InjectedParameters()
        self._prompt: asyncio.Task[list[int] | None] | None = None
        """Asks for the token ids of the prompt while the server responds."""
        self._has_started = False
        """True once the agent has received any of the response."""

    async def forward(self, send: Send) -> None:
        """Forward the call and its response. Raises `ProxyError` if the agent has received nothing yet."""
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
        """Send the call; retry a failure that precedes the response's first byte, while retries are left."""
        body, retries = self._body(), self._server.upstream.retries
        for attempt in range(retries + 1):
            delay = await self._try(body, send, is_last=attempt == retries)
            if delay is None:
                return
            await asyncio.sleep(delay or RETRY_POLICY.delay(attempt))

    async def _try(self, body: bytes, send: Send, *, is_last: bool) -> float | None:
        """Send the call once. Return None if it is answered, else the delay that the server asks for, or 0."""
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
            return ProxyError(f"the server of model {name!r} did not respond in time", 504)
        return ProxyError(f"the server of model {name!r} is unreachable: {type(error).__name__}", 502)

    # Response

    async def _return_whole(self, response: aiohttp.ClientResponse, send: Send) -> None:
        content = await response.read()
        if self._recording is not None:
            self._recording.set_response(response.status, content)
        await self._store_span()
        if self._injected:
            content = self._strip(content)
        await self._start_response(response, send, (b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.body", "body": content})

    async def _return_stream(self, response: aiohttp.ClientResponse, send: Send) -> None:
        if self._recording is not None:
            self._recording.start_stream(response.status)
        splitter = SseSplitter()
        async for chunk in response.content.iter_any():
            if self._recording is not None:
                self._recording.append(chunk)
            if not self._has_started:
                await self._start_response(response, send)
            events = splitter.feed(chunk)
            final = next((index for index, event in enumerate(events) if is_final_event(event)), len(events))
            await self._send_events(events[:final], send)
            if final < len(events):
                await self._store_span()
                await self._send_events(events[final:], send)
        if not self._has_started:
            await self._start_response(response, send)
        await self._store_span()
        await send({"type": "http.response.body", "body": splitter.incomplete})

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

    def _strip(self, content: bytes) -> bytes:
        try:
            body = as_object(orjson.loads(content))
        except orjson.JSONDecodeError:
            return content
        return orjson.dumps(self._injected.strip(body)) if body else content

    # Recording

    async def _store_span(self) -> None:
        """Store the call's span, once: the response is complete, but the agent has not received its end."""
        if self._recording is not None:
            await self._recording.store(await self._prompt if self._prompt is not None else None)

    async def _record_failure(self, error: BaseException) -> None:
        if self._recording is not None:
            self._recording.fail(None if isinstance(error, asyncio.CancelledError) else error)
            # In a task of its own: this one may have been cancelled.
            await asyncio.shield(self._recording.store())


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the delay in seconds that the server asks for, or 0."""
    value = response.headers.get("retry-after", "")
    return min(float(value), RETRY_POLICY.max_delay) if value.replace(".", "", 1).isdigit() else 0.0


# Server-sent events

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
_FINAL_MARKERS = (b"[DONE]", b"message_stop", b"response.", b"error")


class SseSplitter:
    """Splits a stream of server-sent events as its bytes arrive."""

    def __init__(self) -> None:
        self.incomplete = b""
        """The bytes of an event whose end has not arrived."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that the chunk completes, each with the empty line that ends it."""
        buffer = self.incomplete + chunk if self.incomplete else chunk
        events: list[bytes] = []
        start = 0
        for end in _END_OF_EVENT.finditer(buffer):
            events.append(buffer[start : end.end()])
            start = end.end()
        self.incomplete = buffer[start:]
        return events


def is_final_event(event: bytes) -> bool:
    """Return whether the server ends the stream with this event."""
    if not any(marker in event for marker in _FINAL_MARKERS):
        return False
    is_done = event.partition(b"data:")[2].strip() == b"[DONE]"
    return is_done or sse.has_ended(b"", next(iter(sse.events(event)), None))
