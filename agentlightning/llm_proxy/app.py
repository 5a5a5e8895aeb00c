"""The proxy's HTTP side: who asks for what, and what the models are."""

from __future__ import annotations

import logging
import time
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..errors import AgentLightningError
from ..http.disconnect import while_there
from ..instrumentation.dialects.base import Json, as_object
from ..store.http.auth import read_body
from .auth import Address, Door, address_of, headers_of, key_in
from .forwarding import Asked, Exchange
from .proxy_errors import Refused, as_response
from .recording import Recorder
from .routing import Routing

logger = logging.getLogger(__name__)
access = logging.getLogger("agentlightning.llm_proxy.access")

CALLS = frozenset(
    {
        "chat/completions",
        "completions",
        "responses",
        "messages",
        "embeddings",
        "messages/count_tokens",
        "responses/compact",
    }
)
MAX_BODY = 64 * 1024 * 1024
"""Bytes of a call: conversations with pictures are large."""


class ProxyApp:
    """Plain ASGI: the paths of OpenAI and Anthropic, each also under an attempt's address."""

    def __init__(self, routing: Routing, recorder: Recorder, door: Door) -> None:
        self._routing = routing
        self._recorder = recorder
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answering = _Answering(scope, send)
        try:
            await self._answer(scope, receive, answering)
        except AgentLightningError as error:
            if answering.status:
                raise  # the agent sees a broken answer, as it would without us
            await as_response(error)(scope, receive, answering)
        finally:
            answering.log()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = address_of(_raw_path(scope))
        headers = headers_of(scope)
        self._door.check(headers, address)
        if address.path in CALLS and scope["method"] == "POST":
            await self._call(address, scope, receive, send)
        else:
            await self._other(address, scope["method"])(scope, receive, send)

    async def _call(self, address: Address, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await read_body(scope, receive, MAX_BODY)
        except ConnectionResetError:
            return
        headers = headers_of(scope)
        asked = Asked(address, headers, content, _object(content), None if self._door.locked else key_in(headers))
        async with while_there(receive):
            await self._carry_out(asked, send)

    async def _carry_out(self, asked: Asked, send: Send) -> None:
        async with self._routing.admitted(_model(asked.body)) as server:
            await Exchange(asked, server, self._recorder).carry_out(send)

    def _other(self, address: Address, method: str) -> Response:
        match method, address.path:
            case "GET", "health":
                return _json({"status": "ok"})
            case "GET", "models":
                return _json(_models(self._routing.names))
            case "GET", path if path.removeprefix("models/") in self._routing.names:
                return _json(_model_entry(path.removeprefix("models/")))
            case _, path if path in CALLS:
                raise Refused(f"/v1/{path} takes POST, not {method}", 405)
            case _, path:
                raise Refused(f"there is nothing at /v1/{path}; calls go to: {', '.join(sorted(CALLS))}", 404)


class _Answering:
    """Passes an answer on and remembers its status, for the log and for what may still be said."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    def log(self) -> None:
        if access.isEnabledFor(logging.INFO):
            seconds = time.perf_counter() - self._started
            # As it came: a path with its escapes undone could forge a line of the log.
            access.info('"%s %s" %d %.1fms', self._scope["method"], _raw_path(self._scope), self.status, seconds * 1000)


def _raw_path(scope: Scope) -> str:
    return scope.get("raw_path", scope["path"].encode()).decode("latin-1")


def _object(content: bytes) -> Json:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refused(f"the body is not JSON: {error}", 400) from None
    if not isinstance(body, dict):
        raise Refused("the body is not a JSON object", 400)
    return as_object(body)


def _model(body: Json) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def _models(names: list[str]) -> Json:
    first_and_last = {"first_id": names[0], "last_id": names[-1]} if names else {}
    return {"object": "list", "data": [_model_entry(name) for name in names], "has_more": False, **first_and_last}


def _model_entry(name: str) -> Json:
    """As both OpenAI's and Anthropic's SDKs read it."""
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}
    return {**openai, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
