"""The store's ASGI application: authorizes and executes each request, sends the response, and logs the request."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote

import msgspec
import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import payload
from ...errors import AgentLightningError, InvalidInput, NotFound, StoreBusy, StoreUnavailable, WrongMethod
from ...http.limits import AdmissionControl, Permit, cancel_on_disconnect
from ...logs import REDACTED
from ...redaction import redact
from ..operations import Arguments, Operation, encode_response, operation_table, problem
from ..sql import SqlStore
from ..sql.base import IdempotentRequest
from .auth import RequestAuthorizer, check_operation
from .messages import BATCH_PATH, IDEMPOTENCY_KEY, JSON, PROBLEM, Batch, BatchAnswer, BatchAnswers, BatchCall, Response
from .metrics import Metrics
from .versions import check_client_version

logger = logging.getLogger(__name__)
access = logging.getLogger("agentlightning.store.access")

INTERNAL_ERROR: Final = AgentLightningError("internal error in the store; see the store's log")

MAX_LOGGED_PATH: Final = 1_000
"""Number of characters after which a request's path is truncated in the log."""

_THREAD_THRESHOLD = 512 * 1024
"""Minimum size, in bytes, of bodies that are decoded in another thread so that they do not delay other requests."""
_NO_THREAD = "can't start new thread"
"""Text of the `RuntimeError` that Python raises if there is no memory for another thread."""
_KEY_HEADER = IDEMPOTENCY_KEY.lower().encode()
_VALID_KEY = re.compile(rf"[^\x00-\x1f\x7f\ud800-\udfff]{{1,{payload.MAX_ID_LENGTH}}}")
_LINE = '%s:%s "%s %s HTTP/%s" %d %.1fms'
_ERROR_HEADERS = {
    401: [(b"www-authenticate", b"Bearer")],
    408: [(b"connection", b"close")],  # the rest of the request may still arrive
    429: [(b"retry-after", b"1")],
    503: [(b"retry-after", b"1")],
}


class StoreApp:
    """Executes the operations of `LightningStore`, and passes requests with other paths to `other_routes`.

    The first segment of a path is the name of the operation, and the other segments are ids. The ids are
    percent-encoded, so they may contain slashes.
    """

    def __init__(
        self,
        store: SqlStore,
        other_routes: ASGIApp,
        authorizer: RequestAuthorizer,
        admission: AdmissionControl,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._other_routes = other_routes
        self._authorizer = authorizer
        self._admission = admission
        self._metrics = metrics
        self._operations = operation_table()
        self.is_stopping = False
        """True once the server has started to stop. New long polls then return immediately."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        response = _Responder(send)
        # The path as sent is percent-encoded. A decoded path could contain line breaks and thus forge lines in the log.
        sent_path = scope["raw_path"].decode("latin-1")
        try:
            self._authorizer.authorize(scope)
            check_client_version(scope["headers"])
            await self._respond(sent_path, scope, receive, response)
        except AgentLightningError as error:
            await response.fail(error)
        except HTTPException as error:
            await response.fail(_routing_error(sent_path, error))
        except ConnectionResetError:
            await response.respond((499, b""))
        except asyncio.CancelledError:  # requests are cancelled only when the server stops
            await response.fail(StoreUnavailable("the store is stopping"))
        except Exception as error:
            await response.fail(_unexpected(f"{scope['method']} {_logged_path(sent_path)}", error))
        finally:
            seconds = time.perf_counter() - started
            for method, path, status in response.batch or ((scope["method"], sent_path, response.status),):
                self._metrics.record(path, status, seconds)
                _log(scope, method, path, status, seconds)

    async def _respond(self, path: str, scope: Scope, receive: Receive, response: _Responder) -> None:
        name, *ids = path[1:].split("/")
        operation = self._operations.get(name)
        if path == BATCH_PATH:
            await response.respond(await self._execute_batch(scope, receive, response))
        elif operation is None or len(ids) != len(operation.path_parameters):
            scope["app"] = self  # makes Starlette's router raise HTTPException if there is no route
            await self._other_routes(scope, receive, response)
        else:
            await response.respond((200, await self._execute_request(operation, ids, scope, receive)))

    # One operation in one request

    async def _execute_request(self, operation: Operation, ids: Sequence[str], scope: Scope, receive: Receive) -> bytes:
        _check_method(scope, operation.route.path, operation.route.method)
        with await self._admission.admit(scope, receive) as permit:
            limits = self._admission.limits
            if operation.route.method == "GET":
                query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
                path = zip(operation.path_parameters, map(unquote, ids), strict=True)
                arguments = operation.validate({**query, **dict(path)})
            else:
                arguments = await self._decode_arguments(operation, permit.body)
            arguments = operation.limit_response(arguments, limits.page, limits.page_bytes)
            key = next((value.decode("latin-1") for name, value in scope["headers"] if name == _KEY_HEADER), None)
            if operation.wait_parameter is not None:
                return await self._long_poll(operation, arguments, key, receive, permit)
            return await self._execute(operation, arguments, key)

    async def _decode_arguments(self, operation: Operation, body: bytes) -> Arguments:
        limits = self._admission.limits
        if len(body) < _THREAD_THRESHOLD:
            return operation.decode_arguments(body, limits)
        return await asyncio.to_thread(operation.decode_arguments, body, limits)

    async def _long_poll(
        self, operation: Operation, arguments: Arguments, key: str | None, receive: Receive, permit: Permit
    ) -> bytes:
        permit.release()  # a waiting request does not count towards the limits
        if self.is_stopping:
            arguments = {**arguments, str(operation.wait_parameter): 0.0}
        default = None if operation.wait_parameter == "timeout" else 0.0
        if arguments.get(str(operation.wait_parameter), default) == 0.0:
            return await self._execute(operation, arguments, key)
        async with cancel_on_disconnect(receive):
            return await self._execute(operation, arguments, key)
        raise ConnectionResetError("the client disconnected")

    async def _execute(self, operation: Operation, arguments: Arguments, key: str | None) -> bytes:
        """Execute the operation, and return the result as JSON.

        If a response is already stored under the idempotency key, return that response instead.
        """
        execute = getattr(SqlStore, operation.implementation)
        if key is None or not operation.route.mutates:
            return await encode_response(operation, await execute(self._store, **arguments))
        if not _VALID_KEY.fullmatch(key):
            message = f"{IDEMPOTENCY_KEY} must have 1 to {payload.MAX_ID_LENGTH} characters and no control characters"
            raise InvalidInput(message, field=IDEMPOTENCY_KEY)
        store = copy(self._store)
        store.request = request = IdempotentRequest(
            f"{operation.name}:{key}", operation.encode, operation.decode_stored
        )
        result = await execute(store, **arguments)
        return operation.encode(result) if request.response is None else request.response

    # Several operations in one request

    async def _execute_batch(self, scope: Scope, receive: Receive, response: _Responder) -> Response:
        _check_method(scope, BATCH_PATH, "POST")
        with await self._admission.admit(scope, receive) as permit:
            calls = Batch.decode(permit.body, self._admission.limits.values).operations
            progress = _BatchProgress()
            answers = await asyncio.gather(*(self._execute_call(call, scope, progress) for call in calls))
        response.batch = [(*self._line(call), status) for call, (status, _) in zip(calls, answers, strict=True)]
        return 200, msgspec.json.encode(
            BatchAnswers([BatchAnswer(status, msgspec.Raw(body)) for status, body in answers])
        )

    async def _execute_call(self, call: BatchCall, scope: Scope, progress: _BatchProgress) -> Response:
        try:
            check_operation(scope, call.operation)
            operation = self._operations.get(call.operation)
            if operation is None or not operation.batchable:
                raise InvalidInput(f"the operation {call.operation!r} is not allowed in a batch", field="operation")
            limits = self._admission.limits
            arguments = await self._decode_arguments(operation, bytes(call.arguments))
            arguments = operation.limit_response(arguments, limits.page, limits.page_bytes)
            if operation.wait_parameter and arguments.get(operation.wait_parameter):
                raise InvalidInput(
                    f"{call.operation} cannot wait in a batch: omit {operation.wait_parameter}",
                    field=operation.wait_parameter,
                )
            if operation.route.mutates:
                return 200, await self._execute(operation, arguments, call.idempotency_key)
            async with progress.lookups:
                if progress.bytes > limits.page_bytes:
                    raise StoreBusy(
                        f"the batch's responses exceed {limits.page_bytes} bytes (the limit page_bytes); try again"
                    )
                answer = await self._execute(operation, arguments, None)
                progress.bytes += len(answer)
            return 200, answer
        except AgentLightningError as error:
            return error.status, _encode_problem(error)
        except Exception as error:
            failure = _unexpected(call.operation, error)
            return failure.status, _encode_problem(failure)

    def _line(self, call: BatchCall) -> tuple[str, str]:
        """Return the method and path to log for a call in a batch."""
        operation = self._operations.get(call.operation)
        return ("POST", BATCH_PATH) if operation is None else (operation.route.method, f"/{call.operation}")


_CONCURRENT_LOOKUPS = 4
"""Maximum number of lookups in a batch that run at a time. Each may return several megabytes."""


class _BatchProgress:
    """Limits the memory that the responses to the lookups in a batch take."""

    def __init__(self) -> None:
        self.bytes = 0
        """Total size of the responses so far."""
        self.lookups = asyncio.Semaphore(_CONCURRENT_LOOKUPS)


class _Responder:
    """Sends one response and records its status."""

    __slots__ = ("_send", "batch", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.batch: list[tuple[str, str, int]] = []
        """Method, path and status of each operation if the request is a batch; otherwise empty."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def respond(
        self, response: Response, media_type: str = JSON, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a complete response."""
        self.status, body = response
        own = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode())]
        await self._send({"type": "http.response.start", "status": self.status, "headers": [*own, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: AgentLightningError) -> None:
        """Send an error as problem+json, unless the response has already been started."""
        if self.status:
            return
        headers = _ERROR_HEADERS.get(error.status, [])
        if isinstance(error, WrongMethod):
            headers = [(b"allow", error.allowed.encode())]
        await self.respond((error.status, _encode_problem(error)), PROBLEM, headers)


def _unexpected(operation: str, error: Exception) -> AgentLightningError:
    """Log an unexpected exception, and return the error to send to the client."""
    if isinstance(error, MemoryError) or _NO_THREAD in str(error):
        logger.error("%s failed, because the store is out of memory: %s", operation, error)
        return StoreUnavailable("the store is out of memory; try again, or raise its memory limit")
    logger.error("%s failed", operation, exc_info=error)
    return INTERNAL_ERROR


def _routing_error(path: str, error: HTTPException) -> AgentLightningError:
    if error.status_code == WrongMethod.status:
        allowed = (error.headers or {}).get("Allow", "GET")
        return WrongMethod(f"{path} takes {allowed}", allowed=allowed)
    return NotFound(f"no route {path}; /openapi.json lists the routes")


def _encode_problem(error: AgentLightningError) -> bytes:
    return orjson.dumps(problem(error))


def _check_method(scope: Scope, path: str, allowed: str) -> None:
    if scope["method"] != allowed:
        raise WrongMethod(f"{path} takes {allowed}", allowed=allowed)


def _log(scope: Scope, method: str, path: str, status: int, seconds: float) -> None:
    if access.isEnabledFor(logging.INFO):
        host, port = scope.get("client") or ("-", 0)
        line = (host, port, method, _logged_path(path), scope["http_version"], status, seconds * 1000)
        # `access.info` would also look up the calling function, which takes a tenth of the time for logging a line.
        access.handle(access.makeRecord(access.name, logging.INFO, __file__, 0, _LINE, line, None, "_log", REDACTED))


@lru_cache(1_000)
def _logged_path(path: str) -> str:
    return redact(path[:MAX_LOGGED_PATH])
