"""uvicorn as store and proxy use it: it says when it answers, and is gone as soon as it may be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
LOOK_SECONDS = 0.005
"""Between looks at whether the last request is answered, once it is told to end."""


class Uvicorn(uvicorn.Server):
    """Serves an app over HTTP until `end` or a signal, and then what is under way for `drain_seconds` more.

    `on_answering` is called once requests are answered, `on_ending` before it waits for those under way.
    """

    def __init__(
        self,
        app: Any,
        *,
        drain_seconds: int,
        on_answering: Callable[[], None] = lambda: None,
        on_ending: Callable[[], None] = lambda: None,
        http: Any = "httptools",
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=drain_seconds,
            )
        )
        self._on_answering = on_answering
        self._on_ending = on_ending
        self._drain_seconds = drain_seconds
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Have it end, from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._told.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_answering()

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, which rests a tenth of a second here and there."""
        self._on_ending()
        for listening in [*self.servers, *(sockets or [])]:
            listening.close()
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._all_answered()
        except TimeoutError:
            logger.error("Gave up %d requests that took longer to answer", len(self.server_state.tasks))
            for task in self.server_state.tasks:
                task.cancel()

    async def _all_answered(self) -> None:
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        for server in self.servers:
            await server.wait_closed()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Unlike uvicorn's own, it does not raise them again when it has ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
