"""The uvicorn server used by the store and the LLM proxy, with a fast start and a fast graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, cast

import uvicorn

from ..errors import InvalidInput, StoreUnavailable
from .limits import Limits
from .protocol import LimitedProtocol

logger = logging.getLogger(__name__)

TICK_INTERVAL = 0.1
"""Time in seconds between runs of uvicorn's periodic tasks: updating the Date header and checking for signals."""
MAX_PORT = 65_535
POLL_INTERVAL_DRAIN = 0.005
"""Time in seconds between checks during shutdown for requests that are still in progress."""


def listen(host: str, port: int, *, server: str, remedy: str) -> socket.socket:
    """Return a listening socket for a server. Port 0 selects a free port.

    Raises `InvalidInput` if the host or the port is not valid, and `StoreUnavailable` if the server cannot listen
    there. `server` and `remedy` are used in the error messages.
    """
    if not 0 <= port <= MAX_PORT:
        raise InvalidInput(f"{port} is not a port; choose one from 1 to {MAX_PORT}, or 0 for a free port", field="port")
    if not _is_host(host):
        raise InvalidInput(f"{host!r} is not a host name or an address; {remedy}", field="host")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or "").partition(" (")[0]  # create_server appends the address in parentheses
        message = f"the {server} cannot listen on {host}:{port}: {reason}; {remedy}"
        raise StoreUnavailable(message) from None


def _is_host(host: str) -> bool:
    try:
        return "\0" not in host and len(host.encode("idna")) < 256  # the codec also checks the length of each label
    except UnicodeError:
        return False


def raise_descriptor_limit() -> None:
    """Raise the process's soft limit on open files to its hard limit.

    Call it only in processes that do nothing but run a server.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS rejects an infinite limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def base_url(host: str, port: int) -> str:
    """Return the HTTP URL of a server, without a path."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GracefulServer(uvicorn.Server):
    """An HTTP server that runs until `request_stop` is called or a signal arrives.

    It then waits up to `drain_seconds` for pending requests to finish. `on_started` is called once the server accepts
    requests, and `on_stopping` before it waits for pending requests. The server enforces the `limits` on headers,
    pipelined requests and unread responses; `app` must enforce the others. `headers` are added to every response from
    `app`.
    """

    def __init__(
        self,
        app: Any,
        *,
        drain_seconds: int,
        on_started: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("Any", partial(LimitedProtocol, limits=limits or Limits())),
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                headers=list(headers),
                timeout_keep_alive=75,
                timeout_graceful_shutdown=drain_seconds,
            )
        )
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._drain_seconds = drain_seconds
        self._stop_requested = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def request_stop(self) -> None:
        """Start the shutdown and return immediately. Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the server has already stopped
                self._loop.call_soon_threadsafe(self._stop_requested.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        """Run uvicorn's periodic tasks, but return immediately when a stop is requested."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_INTERVAL):
                    await self._stop_requested.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down like uvicorn, but without uvicorn's 0.1-second pauses."""
        self._on_stopping()
        for listener in [*self.servers, *(sockets or [])]:
            listener.close()
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._drain()
        except TimeoutError:
            count = len(self.server_state.tasks)
            logger.error("Cancelled %d requests that did not finish within %d s", count, self._drain_seconds)
            for task in self.server_state.tasks:
                task.cancel()

    async def _drain(self) -> None:
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_DRAIN)
        for server in self.servers:
            await server.wait_closed()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle SIGINT and SIGTERM in the main thread. Unlike uvicorn, do not raise them again after the shutdown."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
