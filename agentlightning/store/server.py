"""LightningStoreServer: a store served over HTTP, and the life of that server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from importlib.metadata import version
from typing import Any, cast

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import payload
from ..errors import AgentLightningError, NotFound, StoreUnavailable
from .contract import Capabilities, LightningStore, Route, forwarding
from .security import Guard, check_exposure, read_body
from .sql import SqlStore
from .sql.answers import AlreadyAnswered, Question, asked
from .wire import IDEMPOTENCY_KEY, JSON, PROBLEM, Arguments, Operation, openapi, problem, table

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
    """

    def __init__(
        self,
        store: LightningStore,
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        token: str | None = None,
    ) -> None:
        check_exposure(host, token)
        self.store = store
        self.host = host
        self.port = DEFAULT_PORT if port is None else port
        self._guard = Guard(host, token)
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
        self._server = _Uvicorn(self._app(), self._release)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="agl-serve", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._server.answering.wait)

    async def stop(self) -> None:
        """Answer what is under way, and stop serving. The store itself stays open."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join)
        self._server = self._thread = None

    def run_forever(self) -> None:
        """Serve from this thread until SIGINT or SIGTERM, then drain. Raises `StoreUnavailable`."""
        listening = self._listen()
        _Uvicorn(self._app(), self._release).run([listening])

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
        return _FrontDoor(build_app(cast("SqlStore", self.store)), self._guard)


def build_app(store: SqlStore) -> Starlette:
    """The routes of the contract, and what stands beside them."""
    routes = [
        HttpRoute(operation.route.path, _endpoint(operation, store), methods=[operation.route.method])
        for operation in table().values()
    ]
    page = orjson.dumps(openapi(version("agentlightning")))

    async def describe(_: Request) -> Response:
        return Response(page, media_type=JSON)

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "version": version("agentlightning"), "durable": store.capabilities["durable"]})

    async def ready(_: Request) -> Response:
        await store.get_worker_by_id("is the database there?")
        return _json({"status": "ready"})

    routes += [
        HttpRoute("/openapi.json", describe, methods=["GET"]),
        HttpRoute("/health", health, methods=["GET"]),
        HttpRoute("/ready", ready, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _no_such_route,
            AgentLightningError: _what_went_wrong,
            ConnectionResetError: _nobody_there,
            Exception: _our_fault,
        },
    )


def _endpoint(operation: Operation, store: SqlStore) -> Callable[[Request], Awaitable[Response]]:
    """An operation as an HTTP endpoint."""
    waits = _WAITS.get(operation.route.name)

    async def endpoint(request: Request) -> Response:
        body = await read_body(request.scope, request.receive)
        arguments = operation.arguments(request.path_params, request.query_params, body)
        _ask_once(operation, request)
        try:
            if waits is None:
                result = await operation.call(store, arguments)
            else:
                result = await _long_poll(operation, store, arguments, request, *waits)
        except AlreadyAnswered as earlier:
            return Response(earlier.answer, media_type=JSON)
        return Response(operation.encode(result), media_type=JSON)

    return endpoint


def _ask_once(operation: Operation, request: Request) -> None:
    key = request.headers.get(IDEMPOTENCY_KEY)
    question = None
    if key is not None and operation.route.mutates:
        payload.check_id(key, IDEMPOTENCY_KEY)
        question = Question(f"{operation.route.name}:{key}", operation.encode)
    asked.set(question)


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
    request: Request,
    parameter: str,
    enough: Callable[[Any, Arguments], bool],
) -> Any:
    """Answer at once if there is an answer; else wait, but not for a caller that has gone away."""
    result = await operation.call(store, {**arguments, parameter: 0.0})
    seconds = arguments.get(parameter, None if parameter == "timeout" else 0.0)
    if seconds == 0.0 or enough(result, arguments):
        return result
    waiting = asyncio.ensure_future(operation.call(store, arguments))
    gone = asyncio.ensure_future(_disconnected(request.receive))
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
        return _problem(NotFound(f"{request.url.path} does not take {request.method}"), status=405)
    return _problem(NotFound(f"there is nothing at {request.url.path}; /openapi.json lists what there is"))


async def _what_went_wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, AgentLightningError)
    return _problem(error)


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _our_fault(_: Request, __: Exception) -> Response:
    return _problem(AgentLightningError("the store failed; its log says why"))


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


def _problem(error: AgentLightningError, *, status: int | None = None) -> Response:
    members = problem(error) | ({} if status is None else {"status": status})
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(members), status_code=members["status"], headers=headers, media_type=PROBLEM)


class _FrontDoor:
    """Guards, times and logs every request, and turns what went wrong into problem+json."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
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
        except Exception:  # answered already, by `_our_fault`
            logger.exception("%s %s failed", scope["method"], scope["path"])
        finally:
            _log(scope, status, time.perf_counter() - started)


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

    def __init__(self, app: ASGIApp, release: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self.answering = threading.Event()
        self._release = release

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()

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
