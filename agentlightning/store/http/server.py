"""LightningStoreServer: a store served over HTTP, and the life of that server."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import AgentLightningError, NotFound, StoreUnavailable, WrongMethod
from ...http.limits import Gate, Limits, patient_protocol
from ...http.server import Uvicorn
from ..contract import Capabilities, LightningStore, Route, forwarding
from ..operations import JSON, openapi
from ..otlp.receive import Otlp
from ..sql import SqlStore
from .assets import page_routes
from .auth import Guard, check_exposure
from .events import Events
from .metrics import KIND, Metrics
from .routes import ANSWERED, OUR_FAULT, Operations, problem_response

if TYPE_CHECKING:
    from ..otlp.export import OtlpExporter

logger = logging.getLogger(__name__)
access = logging.getLogger("agentlightning.store.access")

DEFAULT_PORT = 4747
DRAIN_SECONDS = 6
"""How long requests under way may take after SIGTERM; with what else has to end, the process is gone within ten."""


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
        self._server: Uvicorn | None = None
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
        self._server = self._uvicorn(answering.set)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="agl-serve", daemon=True)
        self._thread.start()
        await asyncio.to_thread(answering.wait)

    async def stop(self) -> None:
        """Answer what is under way, and stop serving. The store itself stays open."""
        if self._server is None or self._thread is None:
            return
        self._server.end()
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
        _collect_less_garbage()
        self._uvicorn(on_answering).run([listening])
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

    def _uvicorn(self, on_answering: Callable[[], None]) -> Uvicorn:
        store = cast("SqlStore", self.store)
        gate = Gate(self._limits)
        metrics = Metrics(store, gate, self._exporter)
        operations = Operations(store, build_app(store, metrics, gate), gate)

        def send_home() -> None:
            operations.ending = True
            if isinstance(self.store, SqlStore):
                self.store.release_waiters()

        return Uvicorn(
            _FrontDoor(operations, self._guard, metrics),
            http=patient_protocol(self._limits),
            drain_seconds=DRAIN_SECONDS,
            on_answering=on_answering,
            on_ending=send_home,
        )


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


def _collect_less_garbage() -> None:
    # Requests leave hardly any cycles behind; looking for them among all modules every few hundred spans cost a tenth
    # of the server's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@functools.cache
def _description() -> bytes:
    # Made when somebody asks for it: this takes longer than all the rest of a start.
    return orjson.dumps(openapi(version("agentlightning")))


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        return problem_response(WrongMethod(f"{request.url.path} takes {allowed}", allowed=allowed))
    return problem_response(NotFound(f"there is nothing at {request.url.path}; /openapi.json lists what there is"))


async def _what_went_wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, AgentLightningError)
    return problem_response(error)


async def _our_fault(_: Request, __: Exception) -> Response:
    return problem_response(OUR_FAULT)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


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
            await problem_response(error)(scope, receive, noting)
        except asyncio.CancelledError:  # only a server that ends gives up a request
            if not status:
                await problem_response(StoreUnavailable("the store ends, and has no time left for this"))(
                    scope, receive, noting
                )
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await problem_response(OUR_FAULT)(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - started
            for method, path, each in scope.get(ANSWERED, ((scope["method"], scope["path"], status),)):
                self._metrics.note(path, each, seconds)
                _log(scope, method, path, each, seconds)


def _log(scope: Scope, method: str, path: str, status: int, seconds: float) -> None:
    if access.isEnabledFor(logging.INFO):
        client = scope.get("client") or ("-", 0)
        access.info(
            '%s:%s "%s %s HTTP/%s" %d %.1fms',
            client[0],
            client[1],
            method,
            path,
            scope["http_version"],
            status,
            seconds * 1000,
        )
