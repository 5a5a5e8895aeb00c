"""The LLM proxy's ASGI application: authenticates requests, forwards model calls, and lists the available models."""

from __future__ import annotations

import logging
import time

import orjson
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from .. import payload
from ..errors import AgentLightningError, StoreBusy, TooLarge
from ..http.auth import Headers
from ..http.limits import AdmissionControl, Limits, cancel_on_disconnect
from ..instrumentation.dialects.base import Json, as_object
from .auth import ProxyAuthenticator, ProxyRequest, RequestTarget, TokenExpiry, api_key_in, parse_target
from .errors import ProxyError, error_body, http_status, too_busy, too_many_values
from .forwarding import ForwardedCall
from .recording import CallRecorder
from .responses import offload_if_large
from .routing import Routing

logger = logging.getLogger(__name__)
access = logging.getLogger("agentlightning.llm_proxy.access")

CALL_PATHS = frozenset(
    {
        *("chat/completions", "completions", "embeddings"),
        *("responses", "responses/compact", "messages", "messages/count_tokens"),
    }
)


class ProxyApp:
    """Serves the API paths of OpenAI and Anthropic, both at the root and under each attempt's own URL."""

    def __init__(
        self,
        routing: Routing,
        recorder: CallRecorder,
        authenticator: ProxyAuthenticator,
        expiry: TokenExpiry,
        limits: Limits,
    ) -> None:
        self._routing = routing
        self._admission = AdmissionControl(limits)
        self._recorder = recorder
        self._authenticator = authenticator
        self._expiry = expiry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, started = 0, time.perf_counter()

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._respond(scope, receive, send_and_note_status)
        except AgentLightningError as error:
            if status:
                raise  # too late for an error response; the response is truncated, as it would be without the proxy
            await _error_response(error)(scope, receive, send_and_note_status)
        except Exception:
            if status:
                raise
            logger.exception("An unexpected error occurred while handling a request")
            internal = ProxyError("internal error in the proxy; see the proxy's log", 500)
            await _error_response(internal)(scope, receive, send_and_note_status)
        finally:
            _log_access(scope, status, time.perf_counter() - started)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = parse_target(_raw_path(scope))
        headers: Headers = dict(scope["headers"])
        if self._authenticator.authenticate(headers, target):
            await self._expiry.check(target.rollout_id, target.attempt_id)
        if target.path in CALL_PATHS and scope["method"] == "POST":
            await self._forward(target, headers, scope, receive, send)
        else:
            await self._other(target.path, scope["method"])(scope, receive, send)

    async def _forward(
        self, target: RequestTarget, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            permit = await self._admission.admit(scope, receive)
        except ConnectionResetError:
            return
        except StoreBusy:
            raise too_busy() from None
        with permit:
            content, size = permit.body, len(permit.body)
            client_key = api_key_in(headers) if self._authenticator.secret is None else None
            body = await offload_if_large(size, _json_object, content, self._admission.limits.values)
            request = ProxyRequest(target, headers, content, body, client_key)
            async with cancel_on_disconnect(receive), self._routing.server_for(body.get("model")) as server:
                call = await offload_if_large(size, ForwardedCall, request, server, self._recorder, permit)
                await call.forward(send)

    def _other(self, path: str, method: str) -> Response:
        models = self._routing.model_names
        match method, path:
            case "GET", "health":
                return JSONResponse({"status": "ok"})
            case "GET", "models":
                return JSONResponse(_model_list(models))
            case "GET", path if path.removeprefix("models/") in models:
                return JSONResponse(_model_entry(path.removeprefix("models/")))
            case _, path if path in CALL_PATHS:
                raise ProxyError(f"/v1/{path} accepts POST, not {method}", 405)
            case _, path:
                raise ProxyError(
                    f"/v1/{path} does not exist; send model calls to one of {', '.join(sorted(CALL_PATHS))}", 404
                )


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    if access.isEnabledFor(logging.INFO):
        # Log the raw path: a decoded path could contain a newline and thereby forge a log line.
        access.info('"%s %s" %d %.1fms', scope["method"], _raw_path(scope), status, seconds * 1000)


def _raw_path(scope: Scope) -> str:
    return scope.get("raw_path", scope["path"].encode()).decode("latin-1")


def _json_object(content: bytes, values: int) -> Json:
    try:
        payload.check_size(content, values=values)
        body = orjson.loads(content)
    except TooLarge:
        raise ProxyError(f"the request body {too_many_values(values)}", 413) from None
    except orjson.JSONDecodeError as error:
        raise ProxyError(f"the request body is not JSON: {error}", 400) from None
    if not isinstance(body, dict):
        raise ProxyError("the request body is not a JSON object", 400)
    return as_object(body)


def _model_list(names: list[str]) -> Json:
    first_and_last = {"first_id": names[0], "last_id": names[-1]} if names else {}
    return {"object": "list", "data": [_model_entry(name) for name in names], "has_more": False, **first_and_last}


def _model_entry(name: str) -> Json:
    """Return a model's description, which contains the fields of both the OpenAI API and the Anthropic API."""
    openai = {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}
    return {**openai, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _error_response(error: AgentLightningError) -> Response:
    status = http_status(error)
    headers: dict[str, str] = {}
    if isinstance(error, ProxyError) and error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if status in (408, 413):  # the proxy does not read the rest of the request's body
        headers["connection"] = "close"
    return JSONResponse(error_body(error), status, headers)
