"""LightningStoreServer: a store served over HTTP, and the life of that server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import payload
from ..errors import AgentLightningError, NotFound, StoreUnavailable, WrongMethod
from .contract import Capabilities, LightningStore, Route, forwarding
from .events import Events
from .limits import Gate, Limits, patient_protocol
from .metrics import KIND, Metrics
from .otlp import Otlp
from .pages import page_routes
from .security import Guard, check_exposure
from .sql import SqlStore
from .sql.answers import AlreadyAnswered, Question, asked
from .wire import IDEMPOTENCY_KEY, JSON, PROBLEM, Arguments, Operation, openapi, problem, table

if TYPE_CHECKING:
    from .otlp_export import OtlpExporter

logger = logging.getLogger(__name__)
access = logging.getLogger("agentlightning.store.access")

DEFAULT_PORT = 4747
DRAIN_SECONDS = 8
"""How long requests under way may take after SIGTERM; the process is gone within ten."""


def _within(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(self: LightningStoreServer, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.store, route.name)(*args, **kwargs)

    return call


@forwarding(_within)
class LightningStoreServer(LightningStore):
    """Serves a store at `endpoint`, and is that store itself for those in the same process.

    Beyond this machine (any `host` that is not loopback) it needs a `token`. `port` None is 4747, 0 any free one.
    While it serves, an `exporter` sends the store's spans on to other places.
    """

    def __init__(
        self,
        store: LightningStore,
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        token: str | None = None,
        runner_token: str | None = None,
        allowed_hosts: Iterable[str] = (),
        limits: Limits | None = None,
        exporter: OtlpExporter | None = None,
    ) -> None:
        check_exposure(host, token, runner_token)
        self.store = store
        self.host = host
        self.port = DEFAULT_PORT if port is None else port
        self._limits = limits or Limits()
        self._guard = Guard(host, token, allowed_hosts, runner_token=runner_token)
        self._exporter = exporter
        self._server: _Uvicorn | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The URL for a `LightningStoreClient`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def capabilities(self) -> Capabilities:
        capabilities = self.store.capabilities.copy()
        capabilities["otlp_traces"] = True
        return capabilities

    def otlp_traces_endpoint(self) -> str | None:
        return f"{self.endpoint}/v1/traces"

    async def start(self) -> None:
        """Serve from a thread of its own; returns when requests are answered. Raises `StoreUnavailable`."""
        listening = self._listen()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.start)
        answering = threading.Event()
        self._server = _Uvicorn(self._app(), self._release, self._limits, answering.set)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="agl-serve", daemon=True)
        self._thread.start()
        await asyncio.to_thread(answering.wait)

    async def stop(self) -> None:
        """Answer what is under way, and stop serving. The store itself stays open."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join)
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.stop)
        self._server = self._thread = None

    def run_forever(self, on_answering: Callable[[], None] = lambda: None) -> None:
        """Serve from this thread until SIGINT or SIGTERM, then drain. Raises `StoreUnavailable`.

        `on_answering` is called once `endpoint` answers, and a signal ends it cleanly.
        """
        listening = self._listen()
        if self._exporter is not None:
            self._exporter.start()
        _Uvicorn(self._app(), self._release, self._limits, on_answering).run([listening])
        if self._exporter is not None:
            self._exporter.stop()

    async def close(self) -> None:
        """Stop serving, and close the store."""
        await self.stop()
        await self.store.close()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot listen on {self.host}:{self.port}: {error.strerror}. Is another store running? "
                "Stop it, or choose another --port."
            ) from None
        self.port = listening.getsockname()[1]
        return listening

    def _release(self) -> None:
        if isinstance(self.store, SqlStore):
            self.store.release_waiters()

    def _app(self) -> ASGIApp:
        store = cast("SqlStore", self.store)
        gate = Gate(self._limits)
        metrics = Metrics(store, gate, self._exporter)
        return _FrontDoor(_Operations(store, build_app(store, metrics, gate), gate), self._guard, metrics)


def build_app(store: SqlStore, metrics: Metrics, gate: Gate) -> Starlette:
    """What stands beside the operations of the contract."""

    async def describe(_: Request) -> Response:
        return Response(await asyncio.to_thread(_description), media_type=JSON)

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "version": version("agentlightning"), "durability": store.durability})

    async def ready(_: Request) -> Response:
        await store.get_worker_by_id("is the database there?")
        return _json({"status": "ready"})

    async def counted(_: Request) -> Response:
        return Response(await metrics.text(), media_type=KIND)

    return Starlette(
        routes=[
            HttpRoute("/openapi.json", describe, methods=["GET"]),
            HttpRoute("/health", health, methods=["GET"]),
            HttpRoute("/ready", ready, methods=["GET"]),
            HttpRoute("/metrics", counted, methods=["GET"]),
            *page_routes(),
            *Events(store).routes(),
            *Otlp(store, gate).routes(),
        ],
        exception_handlers={
            HTTPException: _no_such_route,
            AgentLightningError: _what_went_wrong,
            Exception: _our_fault,
        },
    )


@functools.cache
def _description() -> bytes:
    # Made when somebody asks for it: this takes longer than all the rest of a start.
    return orjson.dumps(openapi(version("agentlightning")))


class _Operations:
    """The contract's routes, found by the first part of their path; ids in the rest may hold any character."""

    def __init__(self, store: SqlStore, otherwise: ASGIApp, gate: Gate) -> None:
        self._store = store
        self._gate = gate
        self._otherwise = otherwise
        self._table = {f"/{name}": operation for name, operation in table().items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, name, *rest = scope["raw_path"].decode("latin-1").split("/")
        operation = self._table.get(f"/{name}")
        if operation is None or len(rest) != len(operation.route.path_parameters):
            await self._otherwise(scope, receive, send)
            return
        try:
            response = await self._answer(operation, [unquote(part) for part in rest], scope, receive)
        except ConnectionResetError:
            response = Response(status_code=499)
        await response(scope, receive, send)

    async def _answer(self, operation: Operation, ids: list[str], scope: Scope, receive: Receive) -> Response:
        if scope["method"] != operation.route.method:
            return _wrong_method(operation.route.path, operation.route.method)
        body = await self._gate.enter(scope, receive)
        room = _Room(self._gate, len(body))
        try:
            return await self._answer_to(operation, ids, scope, receive, body, room)
        finally:
            room.leave()

    async def _answer_to(
        self, operation: Operation, ids: list[str], scope: Scope, receive: Receive, body: bytes, room: _Room
    ) -> Response:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        path = dict(zip(operation.route.path_parameters, ids, strict=True))
        limits = self._gate.limits
        arguments = operation.page(operation.arguments(path, query, body, limits.depth), limits.page)
        _ask_once(operation, scope)
        try:
            waits = _WAITS.get(operation.route.name)
            if waits is None:
                result = await operation.call(self._store, arguments)
            else:
                room.leave()  # who waits takes no room
                result = await _long_poll(operation, self._store, arguments, receive, *waits)
        except AlreadyAnswered as earlier:
            return Response(earlier.answer, media_type=JSON)
        return Response(operation.encode(result), media_type=JSON)


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


def _ask_once(operation: Operation, scope: Scope) -> None:
    key = next((value for name, value in scope["headers"] if name == _IDEMPOTENCY_KEY), None)
    question = None
    if key is not None and operation.route.mutates:
        payload.check_id(key.decode("latin-1"), IDEMPOTENCY_KEY)
        question = Question(f"{operation.route.name}:{key.decode('latin-1')}", operation.encode)
    asked.set(question)


_IDEMPOTENCY_KEY = IDEMPOTENCY_KEY.lower().encode()


# Operations that may wait: the parameter that says how long, and whether a result is worth an answer yet
_WAITS: dict[str, tuple[str, Callable[[Any, Arguments], bool]]] = {
    "dequeue_rollout": ("wait", lambda claimed, _: claimed is not None),
    "dequeue_many_rollouts": ("wait", lambda claimed, _: bool(claimed)),
    "wait_for_rollouts": (
        "timeout",
        lambda finished, arguments: len(finished) == len(set(arguments["rollout_ids"])),
    ),
}


async def _long_poll(
    operation: Operation,
    store: SqlStore,
    arguments: Arguments,
    receive: Receive,
    parameter: str,
    enough: Callable[[Any, Arguments], bool],
) -> Any:
    """Answer at once if there is an answer; else wait, but not for a caller that has gone away."""
    result = await operation.call(store, {**arguments, parameter: 0.0})
    seconds = arguments.get(parameter, None if parameter == "timeout" else 0.0)
    if seconds == 0.0 or enough(result, arguments):
        return result
    waiting = asyncio.ensure_future(operation.call(store, arguments))
    gone = asyncio.ensure_future(_disconnected(receive))
    await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not waiting.done():
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        raise ConnectionResetError("the caller went away")
    return waiting.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _wrong_method(request.url.path, (error.headers or {}).get("Allow", "GET"))
    return _problem(NotFound(f"there is nothing at {request.url.path}; /openapi.json lists what there is"))


async def _what_went_wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, AgentLightningError)
    return _problem(error)


async def _our_fault(_: Request, __: Exception) -> Response:
    return _problem(_OUR_FAULT)


_OUR_FAULT = AgentLightningError("the store failed; its log says why")


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


def _wrong_method(path: str, allowed: str) -> Response:
    return _problem(WrongMethod(f"{path} takes {allowed}"), {"Allow": allowed})


def _problem(error: AgentLightningError, headers: dict[str, str] | None = None) -> Response:
    headers = {**(headers or {}), **_HEADERS.get(error.status, {})}
    return Response(orjson.dumps(problem(error)), status_code=error.status, headers=headers, media_type=PROBLEM)


_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}


class _FrontDoor:
    """Guards, times and logs every request, and turns what went wrong into problem+json."""

    def __init__(self, app: ASGIApp, guard: Guard, metrics: Metrics) -> None:
        self._metrics = metrics
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._guard.check(scope)
            await self._app(scope, receive, noting)
        except AgentLightningError as error:
            await _problem(error)(scope, receive, noting)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await _problem(_OUR_FAULT)(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.note(scope["path"], status, seconds)
            _log(scope, status, seconds)


def _log(scope: Scope, status: int, seconds: float) -> None:
    if access.isEnabledFor(logging.INFO):
        client = scope.get("client") or ("-", 0)
        access.info(
            '%s:%s "%s %s HTTP/%s" %d %.1fms',
            client[0],
            client[1],
            scope["method"],
            scope["path"],
            scope["http_version"],
            status,
            seconds * 1000,
        )


class _Uvicorn(uvicorn.Server):
    """uvicorn, with our way of ending: long polls are sent home first, and signals are not raised again."""

    def __init__(
        self, app: ASGIApp, release: Callable[[], None], limits: Limits, on_answering: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=patient_protocol(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._on_answering = on_answering
        self._release = release

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_answering()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._release()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
