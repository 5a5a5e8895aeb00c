"""One call on its way through: to the server, back to the agent, and into the record before the agent has its end."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import aiohttp
import orjson
from starlette.types import Send

from ..instrumentation.dialects.base import Json, as_object
from .auth import Address, Headers
from .injected_parameters import Extras, extras
from .model_server import Server
from .proxy_errors import Refused
from .recording import Record, Recorder
from .sse_stream import Events, is_last

SENT_AGAIN = frozenset({429, 500, 502, 503, 504, 529})
"""Statuses of answers after which a call is sent again, while tries are left."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0

_PASSED_BACK = ("content-type", "retry-after", "request-id", "x-request-id")
_PASSED_BACK_FAMILIES = ("openai-", "anthropic-", "x-ratelimit-")


@dataclass
class Asked:
    """A call as it came from the agent."""

    address: Address
    headers: Headers
    content: bytes
    body: Json
    agents_key: str | None
    """The agent's own key, for a server that we have none for."""


class Exchange:
    """One call, with the server it goes to."""

    def __init__(self, asked: Asked, server: Server, recorder: Recorder) -> None:
        self._asked = asked
        self._server = server
        self._recorder = recorder
        self._record: Record | None = None
        self._extras = Extras()
        self._prompt: asyncio.Task[list[int] | None] | None = None
        self._has_begun = False
        """Whether the agent has seen any of the answer."""

    async def carry_out(self, send: Send) -> None:
        """Ask the server, and give the agent its answer. Raises `Refused` while the agent has seen nothing."""
        asked = self._asked
        self._record = self._recorder.begin(asked.address, asked.content, asked.body, asked.headers, self._server)
        try:
            await self._ask_besides()
            await self._ask(send)
        except BaseException as error:
            await self._broken(error)
            raise
        finally:
            if self._prompt is not None:
                self._prompt.cancel()

    # Asking

    async def _ask_besides(self) -> None:
        if self._record is None:
            return
        asked = self._asked
        program = await self._server.program()
        self._extras = extras(asked.address.path, program, asked.body)
        if program == "llama.cpp" and self._extras:
            self._prompt = asyncio.create_task(self._server.prompt_token_ids(asked.address.path, asked.body))

    async def _ask(self, send: Send) -> None:
        """Send the call, and again while it fails before the agent has seen any of its answer and tries are left."""
        body, retries = self._request(), self._server.upstream.retries
        for tries in range(retries + 1):
            pause = await self._try(body, send, last=tries == retries)
            if pause is None:
                return
            await asyncio.sleep(pause or _pause(tries))

    async def _try(self, body: bytes, send: Send, *, last: bool) -> float | None:
        """One try: None when the agent has its answer, else when the server wants to be asked again."""
        asked = self._asked
        try:
            async with self._server.post(asked.address.path, body, asked.headers, asked.agents_key) as response:
                if response.status in SENT_AGAIN and not last:
                    return _retry_after(response)
                await self._pass_back(response, send)
                return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if self._has_begun:
                raise
            if last:
                raise self._unreachable(error) from error
            return 0.0

    def _request(self) -> bytes:
        model = self._server.upstream.model
        renamed = {"model": model} if model is not None and model != self._asked.body.get("model") else {}
        if not renamed and not self._extras:
            return self._asked.content
        return orjson.dumps({**self._asked.body, **renamed, **self._extras.fields})

    def _unreachable(self, error: Exception) -> Refused:
        name = self._server.upstream.name
        if isinstance(error, TimeoutError):
            return Refused(f"the server of model {name!r} did not answer in time", 504)
        return Refused(f"the server of model {name!r} cannot be reached: {type(error).__name__}", 502)

    # Answering

    async def _pass_back(self, response: aiohttp.ClientResponse, send: Send) -> None:
        if "text/event-stream" in response.headers.get("content-type", ""):
            await self._stream(response, send)
        else:
            await self._whole(response, send)

    async def _whole(self, response: aiohttp.ClientResponse, send: Send) -> None:
        content = await response.read()
        if self._record is not None:
            self._record.answered(response.status, content)
            await self._record.store(await self._prompt_token_ids())
        if self._extras:
            content = self._as_asked(content)
        headers = [*_passed_back(response), (b"content-length", str(len(content)).encode())]
        self._has_begun = True
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, response: aiohttp.ClientResponse, send: Send) -> None:
        if self._record is not None:
            self._record.answering(response.status)
        events, kept = Events(), self._record is None
        async for chunk in response.content.iter_any():
            if not self._has_begun:
                await self._begin(response, send)
            if self._record is not None:
                self._record.saw(chunk)
            ready = events.add(chunk)
            end = next((place for place, event in enumerate(ready) if is_last(event)), len(ready))
            await self._pass_on(ready[:end], send)
            if end < len(ready):
                if not kept:
                    kept = await self._keep()
                await self._pass_on(ready[end:], send)
        if not self._has_begun:
            await self._begin(response, send)
        if not kept:
            await self._keep()
        await send({"type": "http.response.body", "body": events.rest})

    async def _begin(self, response: aiohttp.ClientResponse, send: Send) -> None:
        self._has_begun = True
        await send({"type": "http.response.start", "status": response.status, "headers": _passed_back(response)})

    async def _pass_on(self, events: list[bytes], send: Send) -> None:
        if self._extras:
            events = [self._extras.hide_in_event(event) for event in events]
        if body := b"".join(events):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _keep(self) -> bool:
        """The stream is about to end: store what it was."""
        assert self._record is not None
        await self._record.store(await self._prompt_token_ids())
        return True

    async def _prompt_token_ids(self) -> list[int] | None:
        return await self._prompt if self._prompt is not None else None

    def _as_asked(self, content: bytes) -> bytes:
        try:
            answer = as_object(orjson.loads(content))
        except orjson.JSONDecodeError:
            return content
        return orjson.dumps(self._extras.hide(answer)) if answer else content

    async def _broken(self, error: BaseException) -> None:
        """The call ends here: the server failed, or the agent went away."""
        if self._record is None:
            return
        self._record.broke_off(None if isinstance(error, asyncio.CancelledError) else error)
        # On its own: this task may have been cancelled.
        await asyncio.shield(self._record.store())


def _passed_back(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name.lower() in _PASSED_BACK or name.lower().startswith(_PASSED_BACK_FAMILIES)
    ]


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds the server wants to be left alone, 0 where it does not say."""
    said = response.headers.get("retry-after", "")
    return min(float(said), LONGEST_PAUSE) if said.replace(".", "", 1).isdigit() else 0.0


def _pause(tries: int) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries) * random.uniform(0.5, 1.0)
