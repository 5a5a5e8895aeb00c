"""LightningStoreServer: serves a store over HTTP."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as HttpRoute, Router

from ...http.limits import AdmissionControl, Limits
from ...http.server import GracefulServer, base_url, listen, raise_descriptor_limit
from ..contract import Capabilities, LightningStore, Route, implement_operations
from ..otlp import PATH
from ..otlp.receive import OtlpReceiver
from ..sql import SqlStore
from .assets import get_asset
from .auth import RequestAuthorizer, token_attempt
from .events import ChangeFeed
from .messages import JSON
from .metrics import CONTENT_TYPE, Metrics
from .openapi import openapi
from .routes import StoreApp
from .versions import VERSION_HEADER, own_version

if TYPE_CHECKING:
    from ..otlp.export import OtlpExporter

DEFAULT_PORT: Final = 4747
DRAIN_SECONDS: Final = 6
"""Time in seconds that requests in progress are given to finish after SIGTERM.

The whole shutdown, including other cleanup, takes at most ten seconds.
"""


def _local(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(self: LightningStoreServer, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.store, route.name)(*args, **kwargs)

    return call


@implement_operations(_local)
class LightningStoreServer(LightningStore):
    """Serves a store at `endpoint`. Callers in the same process can use the server object itself as a store.

    If `host` is reachable from other machines, a `token` is required. If `port` is None, port 4747 is used; 0 selects a
    free port. If an `exporter` is given, it sends the store's spans to its OTLP targets while the server is running.
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
        self.store = store
        self.host = host
        self.port = DEFAULT_PORT if port is None else port
        self._limits = limits or Limits()
        self._authorizer = RequestAuthorizer(host, token, allowed_hosts, runner_token=runner_token)
        self._exporter = exporter
        self._server: GracefulServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The URL to pass to a `LightningStoreClient`."""
        return base_url(self.host, self.port)

    @property
    def capabilities(self) -> Capabilities:
        return {**self.store.capabilities, "otlp_traces": True}

    def otlp_traces_endpoint(self) -> str | None:
        return f"{self.endpoint}{PATH}"

    async def start(self) -> None:
        """Start serving in a new thread, and return once the server accepts requests.

        Raises `StoreUnavailable` if the server cannot listen on the port.
        """
        listener = self._listen()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.start)
        started = threading.Event()
        self._server = self._make_server(started.set)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="agl-serve", daemon=True)
        self._thread.start()
        await asyncio.to_thread(started.wait)

    async def stop(self) -> None:
        """Stop serving after giving requests in progress time to finish. The store itself stays open."""
        if self._server is None or self._thread is None:
            return
        self._server.request_stop()
        await asyncio.to_thread(self._thread.join)
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.stop)
        self._server = self._thread = None

    def run_forever(self, on_started: Callable[[], None] = lambda: None) -> None:
        """Serve in the calling thread until SIGINT or SIGTERM, then give requests in progress time to finish.

        `on_started` is called once the server accepts requests and handles signals. Raises `StoreUnavailable` if the
        server cannot listen on the port.
        """
        listener = self._listen()
        if self._exporter is not None:
            self._exporter.start()
        raise_descriptor_limit()
        _reduce_garbage_collection()
        self._make_server(on_started).run([listener])
        if self._exporter is not None:
            self._exporter.stop()

    async def close(self) -> None:
        """Stop serving and close the store."""
        await self.stop()
        await self.store.close()

    def _listen(self) -> socket.socket:
        remedy = "if another store is running, stop it, or choose another --port"
        listener = listen(self.host, self.port, server="store", remedy=remedy)
        self.port = listener.getsockname()[1]
        return listener

    def _make_server(self, on_started: Callable[[], None]) -> GracefulServer:
        store = cast("SqlStore", self.store)
        admission = AdmissionControl(self._limits)
        metrics = Metrics(store, admission, self._exporter)
        app = StoreApp(store, _other_routes(store, metrics, admission), self._authorizer, admission, metrics)

        def release_waiting_requests() -> None:
            app.is_stopping = True
            if isinstance(self.store, SqlStore):
                self.store.release_waiters()

        return GracefulServer(
            app,
            limits=self._limits,
            headers=[(VERSION_HEADER, own_version())],
            drain_seconds=DRAIN_SECONDS,
            on_started=on_started,
            on_stopping=release_waiting_requests,
        )


def _other_routes(store: SqlStore, metrics: Metrics, admission: AdmissionControl) -> Router:
    """Return a router for all paths that are not operations of `LightningStore`."""

    health = {"status": "ok", "version": own_version(), "durability": store.durability}

    async def get_openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(_openapi), media_type=JSON)

    async def get_health(_: Request) -> Response:
        return JSONResponse(health)

    async def get_ready(_: Request) -> Response:
        await store.check_ready()
        return JSONResponse({"status": "ready"})

    async def get_metrics(_: Request) -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE)

    return Router(
        [
            HttpRoute("/openapi.json", get_openapi),
            HttpRoute("/health", get_health),
            HttpRoute("/ready", get_ready),
            HttpRoute("/metrics", get_metrics),
            HttpRoute("/events", ChangeFeed(store, admission.limits.listeners).get_events),
            HttpRoute("/", get_asset),
            HttpRoute("/dashboard/{name:path}", get_asset),
            HttpRoute(PATH, OtlpReceiver(store, admission, token_attempt).post_traces, methods=["POST"]),
        ]
    )


def _reduce_garbage_collection() -> None:
    # Requests create hardly any reference cycles. With the default thresholds, the garbage collector scanned all loaded
    # modules every few hundred spans, which took 10 % of the server's CPU time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@functools.cache
def _openapi() -> bytes:
    # The document is created on the first request. Creating it at startup would more than double the startup time.
    return orjson.dumps(openapi(own_version()))
