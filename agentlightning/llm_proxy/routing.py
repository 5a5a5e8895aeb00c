"""Which server a call goes to, now: servers are exchanged, paused and drained while calls are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from .model_server import Server
from .proxy_errors import Refused
from .upstreams import ANY_NAME, Upstream


class Routing:
    """Servers by the names of their models. Lives in one event loop, and is only touched there.

    A call waits while its model is paused, and learns its server only when it may go, so a server that was exchanged
    meanwhile is never asked. One under way stays with the server it has.
    """

    def __init__(self, upstreams: Sequence[Upstream], session: aiohttp.ClientSession) -> None:
        self._session = session
        self._servers: list[Server] = []
        self._paused: set[str] = set()
        self._changed = asyncio.Condition()
        self._retired: set[Server] = set()
        self.exchange(upstreams)

    @property
    def names(self) -> list[str]:
        """The models there are."""
        return list(dict.fromkeys(server.upstream.name for server in self._servers))

    def exchange(self, upstreams: Sequence[Upstream]) -> None:
        """Put these in place of all there are; one that did not change stays, with the calls it has."""
        kept = {server.upstream: server for server in self._servers}
        before = self._servers
        self._servers = [kept.get(upstream) or Server(upstream, self._session) for upstream in upstreams]
        self._retired = {
            server for server in {*self._retired, *before} if server.under_way and server not in self._servers
        }

    @asynccontextmanager
    async def admitted(self, model: str | None) -> AsyncGenerator[Server]:
        """The server for a call that asks for `model`, for as long as the call lasts. Raises `Refused`."""
        server = await self._admit(model)
        try:
            yield server
        finally:
            server.leave()

    async def _admit(self, model: str | None) -> Server:
        while True:
            server = self._server(model)
            if self._is_paused(server):
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._is_paused(self._server(model)))
                continue
            await server.enter()
            if server in self._servers and not self._is_paused(server):
                return server
            server.leave()  # things have changed while it waited for its turn

    def _server(self, model: str | None) -> Server:
        serving = [server for server in self._servers if server.upstream.name == model]
        serving = serving or [server for server in self._servers if server.upstream.name == ANY_NAME]
        if not serving:
            there = ", ".join(self.names) or "none"
            raise Refused(f"the proxy has no model named {model!r}; it has: {there}", 404)
        return min(serving, key=lambda server: server.under_way)

    def _is_paused(self, server: Server) -> bool:
        return server.upstream.name in self._paused

    # Pausing, for as long as weights are changed

    async def pause(self, names: Iterable[str] | None) -> None:
        """Let no more calls begin; those that come wait."""
        self._paused |= set(self.names if names is None else names)

    async def resume(self, names: Iterable[str] | None) -> None:
        """Let them go on, the waiting ones first."""
        self._paused -= set(self._paused if names is None else names)
        async with self._changed:
            self._changed.notify_all()

    async def drained(self, names: Iterable[str] | None) -> None:
        """Wait until no call is under way, with servers that were exchanged neither."""
        wanted = None if names is None else set(names)
        for server in [*self._servers, *self._retired]:
            if wanted is None or server.upstream.name in wanted:
                await server.idle.wait()
