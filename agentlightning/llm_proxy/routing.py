"""Selection of the model server for each call; servers are replaced, paused and drained while calls are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from .model_server import ModelServer
from .proxy_errors import ProxyError
from .upstreams import ANY_NAME, Upstream


class Routing:
    """Model servers by the names of their models. Belongs to one event loop, and is used in no other.

    A call waits while its model is paused. Its server is selected only when it may start, so that no call goes to a
    server that was replaced in the meantime. A call in flight keeps the server that it has.
    """

    def __init__(self, upstreams: Sequence[Upstream], session: aiohttp.ClientSession) -> None:
        self._session = session
        self._servers: list[ModelServer] = []
        self._paused: set[str] = set()
        self._changed = asyncio.Condition()
        self._retired: set[ModelServer] = set()
        self.replace(upstreams)

    @property
    def model_names(self) -> list[str]:
        """The names of the available models."""
        return list(dict.fromkeys(server.upstream.name for server in self._servers))

    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Replace all upstreams; an unchanged one keeps its server and its calls in flight."""
        known = {server.upstream: server for server in self._servers}
        previous = self._servers
        self._servers = [known.get(upstream) or ModelServer(upstream, self._session) for upstream in upstreams]
        self._retired = {
            server for server in {*self._retired, *previous} if server.in_flight and server not in self._servers
        }

    @asynccontextmanager
    async def server_for(self, model: object) -> AsyncGenerator[ModelServer]:
        """Reserve a server for a call to `model` until the block ends. Raises `ProxyError`."""
        server = await self._acquire(model)
        try:
            yield server
        finally:
            server.release()

    async def _acquire(self, model: object) -> ModelServer:
        while True:
            server = self._select(model)
            if self._is_paused(server):
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._is_paused(self._select(model)))
                continue
            await server.acquire()
            if server in self._servers and not self._is_paused(server):
                return server
            server.release()  # it was replaced or paused while the call waited for it

    def _select(self, model: object) -> ModelServer:
        candidates = [server for server in self._servers if server.upstream.name == model]
        candidates = candidates or [server for server in self._servers if server.upstream.name == ANY_NAME]
        if not candidates:
            available = ", ".join(self.model_names) or "none"
            raise ProxyError(f"the proxy has no model named {model!r}; available models: {available}", 404)
        return min(candidates, key=lambda server: server.in_flight)

    def _is_paused(self, server: ModelServer) -> bool:
        return server.upstream.name in self._paused

    # Pausing, for a change of weights

    async def pause(self, names: Iterable[str] | None) -> None:
        """Make new calls to these models wait; None pauses all."""
        self._paused |= set(self.model_names if names is None else names)

    async def resume(self, names: Iterable[str] | None) -> None:
        """Admit calls to these models again, waiting calls first."""
        self._paused -= set(self._paused if names is None else names)
        async with self._changed:
            self._changed.notify_all()

    async def drain(self, names: Iterable[str] | None) -> None:
        """Wait until no call to these models is in flight, including those of replaced servers."""
        drained = None if names is None else set(names)
        for server in [*self._servers, *self._retired]:
            if drained is None or server.upstream.name in drained:
                await server.idle.wait()
