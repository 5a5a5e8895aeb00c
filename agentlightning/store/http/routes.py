"""The contract's operations, answered over ASGI: each in a request of its own, or many in one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import payload
from ...errors import AgentLightningError, InvalidInput, WrongMethod
from ...http.disconnect import while_there
from ...http.limits import Gate
from ..operations import IDEMPOTENCY_KEY, JSON, PROBLEM, Answer, Arguments, Operation, problem, table
from ..sql import SqlStore
from ..sql.idempotency import AlreadyAnswered, Question, asked
from . import batch
from .auth import check_operation

logger = logging.getLogger(__name__)

ANSWERED = "agentlightning.answered"
"""In the scope of a request that carried several operations: method, path and status of each."""


class Operations:
    """The contract's routes, found by the first part of their path; ids in the rest may hold any character."""

    def __init__(self, store: SqlStore, otherwise: ASGIApp, gate: Gate) -> None:
        self._store = store
        self._gate = gate
        self._otherwise = otherwise
        self._table = table()
        self.ending = False
        """Nobody may wait any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        _, name, *rest = path.split("/")
        operation = self._table.get(name)
        try:
            if path == batch.PATH:
                await respond(send, await self._answer_many(scope, receive))
            elif operation is None or len(rest) != len(operation.route.path_parameters):
                await self._otherwise(scope, receive, send)
            else:
                await respond(send, await self._answer(operation, [unquote(part) for part in rest], scope, receive))
        except ConnectionResetError:
            await respond(send, (499, b""))

    # One operation in one request

    async def _answer(self, operation: Operation, ids: list[str], scope: Scope, receive: Receive) -> Answer:
        _check_method(scope, operation.route.path, operation.route.method)
        body = await self._gate.enter(scope, receive)
        room = _Room(self._gate, len(body))
        try:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            path = dict(zip(operation.route.path_parameters, ids, strict=True))
            limits = self._gate.limits
            arguments = operation.page(operation.arguments(path, query, body, limits.depth), limits.page)
            _ask_once(operation, _idempotency_key(scope))
            return await self._carry_out(operation, arguments, receive, room)
        except AlreadyAnswered as earlier:
            return 200, earlier.answer
        finally:
            room.leave()

    async def _carry_out(self, operation: Operation, arguments: Arguments, receive: Receive, room: _Room) -> Answer:
        waits = _WAITS.get(operation.route.name)
        if waits is None:
            result = await operation.call(self._store, arguments)
        else:
            room.leave()  # who waits takes no room
            result = await self._long_poll(operation, arguments, receive, *waits)
        return 200, _encoded(operation, result)

    async def _long_poll(
        self,
        operation: Operation,
        arguments: Arguments,
        receive: Receive,
        parameter: str,
        enough: Callable[[Any, Arguments], bool],
    ) -> Any:
        """Answer at once if there is an answer; else wait, but not for a caller that has gone away."""
        result = await operation.call(self._store, {**arguments, parameter: 0.0})
        seconds = arguments.get(parameter, None if parameter == "timeout" else 0.0)
        if seconds == 0.0 or self.ending or enough(result, arguments):
            return result
        async with while_there(receive):
            return await operation.call(self._store, arguments)
        raise ConnectionResetError("the caller went away")

    # Several

    async def _answer_many(self, scope: Scope, receive: Receive) -> Answer:
        _check_method(scope, batch.PATH, "POST")
        body = await self._gate.enter(scope, receive)
        try:
            calls = batch.calls_in(body)
            answers = await asyncio.gather(*(self._answer_one(call, scope) for call in calls))
        finally:
            self._gate.leave(len(body))
        scope[ANSWERED] = [(*self._asked(call), status) for call, (status, _) in zip(calls, answers, strict=True)]
        return 200, batch.encode_answers(answers)

    async def _answer_one(self, call: batch.Call, scope: Scope) -> Answer:
        try:
            check_operation(scope, call.operation)
            operation = self._brief(call.operation)
            limits = self._gate.limits
            arguments = operation.page(operation.arguments_in(bytes(call.arguments), limits.depth), limits.page)
            _check_does_not_wait(operation, arguments)
            _ask_once(operation, call.idempotency_key)
            return 200, _encoded(operation, await operation.call(self._store, arguments))
        except AlreadyAnswered as earlier:
            return 200, earlier.answer
        except AgentLightningError as error:
            return error.status, _problem(error)
        except Exception:
            logger.exception("%s failed", call.operation)
            return OUR_FAULT.status, _problem(OUR_FAULT)

    def _asked(self, call: batch.Call) -> tuple[str, str]:
        operation = self._table.get(call.operation)
        return ("POST", batch.PATH) if operation is None else (operation.route.method, f"/{call.operation}")

    def _brief(self, name: str) -> Operation:
        operation = self._table.get(name)
        if operation is None or not operation.route.brief:
            raise InvalidInput(f"{name!r} is no operation that travels with others", field="operation")
        return operation


OUR_FAULT = AgentLightningError("the store failed; its log says why")


async def respond(send: Send, answer: Answer) -> None:
    """Send an answer as the whole response."""
    status, body = answer
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", JSON.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_response(error: AgentLightningError) -> Response:
    """An error as problem+json."""
    headers = {"Allow": error.allowed} if isinstance(error, WrongMethod) else _HEADERS.get(error.status)
    return Response(_problem(error), status_code=error.status, headers=headers, media_type=PROBLEM)


_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}


def _problem(error: AgentLightningError) -> bytes:
    return orjson.dumps(problem(error))


class _Room:
    """What one request takes of a gate, until it leaves; it may do so twice."""

    __slots__ = ("_gate", "_size")

    def __init__(self, gate: Gate, size: int) -> None:
        self._gate: Gate | None = gate
        self._size = size

    def leave(self) -> None:
        if self._gate is not None:
            self._gate.leave(self._size)
            self._gate = None


def _check_method(scope: Scope, path: str, allowed: str) -> None:
    if scope["method"] != allowed:
        raise WrongMethod(f"{path} takes {allowed}", allowed=allowed)


def _idempotency_key(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == _IDEMPOTENCY_KEY), None)


_IDEMPOTENCY_KEY = IDEMPOTENCY_KEY.lower().encode()


def _ask_once(operation: Operation, key: str | None) -> None:
    question = None
    if key is not None and operation.route.mutates:
        payload.check_id(key, IDEMPOTENCY_KEY)
        question = Question(f"{operation.route.name}:{key}", operation.encode)
    asked.set(question)


def _encoded(operation: Operation, result: Any) -> bytes:
    question = asked.get()
    kept = None if question is None else question.answer
    return operation.encode(result) if kept is None else kept


# Operations that may wait: the parameter that says how long, and whether a result is worth an answer yet
_WAITS: dict[str, tuple[str, Callable[[Any, Arguments], bool]]] = {
    "dequeue_rollout": ("wait", lambda claimed, _: claimed is not None),
    "dequeue_many_rollouts": ("wait", lambda claimed, _: bool(claimed)),
    "wait_for_rollouts": (
        "timeout",
        lambda finished, arguments: len(finished) == len(set(arguments["rollout_ids"])),
    ),
}


def _check_does_not_wait(operation: Operation, arguments: Arguments) -> None:
    parameter, _ = _WAITS.get(operation.route.name, ("", None))
    if arguments.get(parameter):
        raise InvalidInput(f"{operation.route.name} that waits does not travel with others", field=parameter)
