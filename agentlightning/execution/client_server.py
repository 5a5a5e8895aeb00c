"""ClientServerExecutionStrategy: runners in processes of their own, on this machine or others; the store over HTTP.

The algorithm runs in this process, beside a server around the store. Runners are forked before anything else happens
here, or started afresh where forking is unsafe. With a role, the same script is the algorithm on one machine and
runners on others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from ..errors import InvalidInput
from ..store import LightningStore, LightningStoreClient
from .base import AlgorithmSide, ExecutionStrategy, OpenStore, Role, RunnerSide
from .coordinator import admit, complain_when_rollouts_wait, until_algorithm_ends
from .crash_recovery import MAX_RESTARTS, Losses
from .runner_process import Job
from .signals import run_to_the_end
from .supervisor import Ended, Nursery, StartMethod

if TYPE_CHECKING:
    from ..store import LightningStoreServer

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 15.0
"""How long runners may take to stop: more than their own draining and giving back."""
FAREWELL_SECONDS: Final = 3.0
"""How long the store is served after the algorithm's end, so that runners elsewhere hear of it: longer than the pause
of a client that is trying again."""
PORT: Final = 4747
"""Where both sides meet when they are started apart and nothing else is said."""


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm here and `n_runners` runners in processes.

    What is not given comes from the environment: `role` from AGL_CURRENT_ROLE ("both", "algorithm", "runner"),
    `server_host` and `server_port` from AGL_SERVER_HOST and AGL_SERVER_PORT, `managed_store` from AGL_MANAGED_STORE.
    With `managed_store` off, no server is started: both sides go to the one that is there, such as an `agl store`.
    `start_method` is fork, spawn or forkserver; by default it is fork where that is safe. A runner that dies is started
    again, unless `max_restarts` of them died in a row.
    """

    def __init__(
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        *,
        n_runners: int | None = None,
        managed_store: bool | None = None,
        start_method: StartMethod | None = None,
        graceful_timeout: float = GRACE_SECONDS,
        max_restarts: int = MAX_RESTARTS,
    ) -> None:
        self.role = _role(role or os.environ.get("AGL_CURRENT_ROLE") or "both")
        self.server_host = server_host or os.environ.get("AGL_SERVER_HOST") or "127.0.0.1"
        self.server_port = _port(server_port, self.role)
        self.managed_store = _flag("AGL_MANAGED_STORE") if managed_store is None else managed_store
        self._n_runners = n_runners
        self._start_method: StartMethod | None = start_method
        self._grace = graceful_timeout
        self._max_restarts = max_restarts

    def execute(
        self,
        algorithm: AlgorithmSide,
        runner: RunnerSide,
        open_store: OpenStore,
        *,
        n_runners: int = 1,
    ) -> Any:
        count = self._n_runners or n_runners
        if self.role == "algorithm":
            return run_to_the_end(lambda: self._run_algorithm(algorithm, open_store))
        with Nursery(Job(runner), self._start_method) as nursery:
            if self.role == "runner":
                return run_to_the_end(lambda: self._run_runners(nursery, count))
            return run_to_the_end(lambda: self._run_both(algorithm, nursery, open_store, count))

    # The three roles

    async def _run_algorithm(self, algorithm: AlgorithmSide, open_store: OpenStore) -> Any:
        async with self._store(open_store) as (store, url):
            await admit(algorithm, store)
            logger.info("Runners are awaited at %s.", url)
            try:
                return await algorithm(store)
            finally:
                await asyncio.sleep(FAREWELL_SECONDS)

    async def _run_runners(self, nursery: Nursery, count: int) -> None:
        store = LightningStoreClient(self._url())
        async with store:
            try:
                await self._keep(nursery, store, store.url, count)
            finally:
                await nursery.stop(self._grace)

    async def _run_both(self, algorithm: AlgorithmSide, nursery: Nursery, open_store: OpenStore, count: int) -> Any:
        async with self._store(open_store) as (store, url):
            try:
                return await until_algorithm_ends(
                    algorithm, store, lambda: self._keep(nursery, store, url, count, until_queue_empty=True)
                )
            finally:
                await nursery.stop(self._grace)

    # The store

    @asynccontextmanager
    async def _store(self, open_store: OpenStore) -> AsyncGenerator[tuple[LightningStore, str]]:
        """The store for this process, and the URL for others."""
        if not self.managed_store:
            client = LightningStoreClient(self._url())
            async with client:
                yield client, client.url
            return
        async with open_store() as store:
            if isinstance(store, LightningStoreClient):
                yield store, store.url
                return
            async with self._served(store) as server:
                yield store, server.endpoint

    @asynccontextmanager
    async def _served(self, store: LightningStore) -> AsyncGenerator[LightningStoreServer]:
        from ..store import LightningStoreServer  # which runners in fresh processes need not load

        server = store if isinstance(store, LightningStoreServer) else None
        if server is None:
            token = os.environ.get("AGL_TOKEN")
            server = LightningStoreServer(store, self.server_host, self.server_port, token=token)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    def _url(self) -> str:
        host = f"[{self.server_host}]" if ":" in self.server_host else self.server_host
        return f"http://{host}:{self.server_port or PORT}"

    # The runners

    async def _keep(
        self, nursery: Nursery, store: LightningStore, url: str, count: int, *, until_queue_empty: bool = False
    ) -> None:
        """Start the runners, and start them again when they die. Ends when all have ended by themselves."""
        losses = Losses(store, self._max_restarts)
        for worker in range(count):
            nursery.start(worker, url)
        async with contextlib.aclosing(nursery.ends()) as ends:
            async for ended in ends:
                await self._after(ended, losses, nursery, url)
                if not nursery.running:
                    break
        if until_queue_empty:
            await complain_when_rollouts_wait(store)

    async def _after(self, ended: Ended, losses: Losses, nursery: Nursery, url: str) -> None:
        if ended.crash is not None:
            raise ended.crash.as_error()
        if ended.exitcode:
            await losses.note(ended)
            nursery.start(ended.worker, url)


def _role(role: str) -> Role:
    if role not in get_args(Role):
        raise InvalidInput(f"a role is both, algorithm or runner, not {role!r} (AGL_CURRENT_ROLE)", field="role")
    return cast("Role", role)


def _port(given: int | None, role: Role) -> int:
    if given is not None:
        return given
    said = os.environ.get("AGL_SERVER_PORT")
    if said:
        try:
            return int(said)
        except ValueError:
            raise InvalidInput(f"AGL_SERVER_PORT is a number, not {said!r}", field="server_port") from None
    return 0 if role == "both" else PORT


def _flag(name: str) -> bool:
    return os.environ.get(name, "1").strip().lower() not in ("0", "false", "no", "off")
