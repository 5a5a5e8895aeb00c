"""ClientServerExecutionStrategy: runs the runners in separate processes, which access the store over HTTP.

The algorithm runs in the current process, which by default also serves the store. Runners are forked from a process
without threads, or started as new Python processes if forking is unsafe. To run the algorithm on one machine and
runners on others, start the same script on every machine, with `role` set to `algorithm` or `runner`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from ..errors import Conflict, InvalidInput, NotFound, RunnerDied
from ..processes import is_process_alive
from ..runner.context import worker_id_prefix
from ..store import LightningStore, LightningStoreClient
from ..types import Attempt, AttemptedRollout
from .base import AlgorithmTask, ExecutionStrategy, OpenStore, Role, RunnerTask, run_together, run_until_complete
from .supervisor import ProcessExit, ProcessSupervisor, StartMethod

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 15.0
"""Time in seconds that runners are given to stop. This is normally enough to finish and report their rollouts."""
LINGER_SECONDS: Final = 3.0
"""Time in seconds for which the store remains available after the algorithm has ended, so that remote runners can
detect the end of the run. It is longer than the maximum delay between a store client's retries."""
PORT: Final = 4747
"""Default port of the store's server when the algorithm and the runners are started separately."""
MAX_RESTARTS: Final = 10
"""Maximum number of consecutive crashes of runner processes. One more crash fails the run. Crashes are consecutive
if no rollout ended for another reason in between, so an agent that crashes only occasionally does not fail the run."""


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm in the current process and `n_runners` runners in separate processes.

    Some defaults come from environment variables: `role` from AGL_CURRENT_ROLE ("both", "algorithm" or "runner"),
    `server_host` from AGL_SERVER_HOST, `server_port` from AGL_SERVER_PORT, and `managed_store` from AGL_MANAGED_STORE.
    If `managed_store` is False, the strategy does not start a server. The algorithm and the runners then connect to an
    existing server, such as `agl store`.

    `start_method` is fork, spawn or forkserver; the default is fork if forking is safe. If a runner's process crashes,
    it is restarted, but the run fails after more than `max_restarts` consecutive crashes. When the run ends, runners
    are given `graceful_timeout` seconds to stop.
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
        self.server_port = _port(self.role) if server_port is None else server_port
        self.managed_store = _is_enabled("AGL_MANAGED_STORE") if managed_store is None else managed_store
        self._n_runners = n_runners
        self._start_method: StartMethod | None = start_method
        self._grace_seconds = graceful_timeout
        self._max_restarts = max_restarts

    def execute(
        self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, *, n_runners: int = 1
    ) -> Any:
        count = self._n_runners or n_runners
        if self.role == "algorithm":
            return run_until_complete(lambda: self._run_algorithm(algorithm, open_store))
        with ProcessSupervisor(runner, self._start_method) as supervisor:
            if self.role == "runner":
                return run_until_complete(lambda: self._run_runners(supervisor, count))
            return run_until_complete(lambda: self._run_both(algorithm, supervisor, open_store, count))

    # The three roles

    async def _run_algorithm(self, algorithm: AlgorithmTask, open_store: OpenStore) -> Any:
        async with self._store(open_store) as (store, url):
            return await run_together(algorithm, store, lambda: _wait_for_remote_runners(url))

    async def _run_runners(self, supervisor: ProcessSupervisor, count: int) -> None:
        async with LightningStoreClient(self._url()) as store:
            await self._supervise(supervisor, store, self._url(), count)

    async def _run_both(
        self, algorithm: AlgorithmTask, supervisor: ProcessSupervisor, open_store: OpenStore, count: int
    ) -> Any:
        async with self._store(open_store) as (store, url):
            return await run_together(algorithm, store, lambda: self._supervise(supervisor, store, url, count))

    # The store

    @asynccontextmanager
    async def _store(self, open_store: OpenStore) -> AsyncGenerator[tuple[LightningStore, str]]:
        """Open the store, and serve it unless another process already serves it. Yield the store and its URL."""
        if not self.managed_store:
            async with LightningStoreClient(self._url()) as client:
                yield client, self._url()
            return
        async with open_store() as store:
            if isinstance(store, LightningStoreClient):
                yield store, store.url
                return
            from ..store import LightningStoreServer  # imported here because new runner processes do not need it

            server, token = store, os.environ.get("AGL_TOKEN")
            if not isinstance(server, LightningStoreServer):
                server = LightningStoreServer(store, self.server_host, self.server_port, token=token)
            await server.start()
            try:
                yield store, server.endpoint
            finally:
                await server.stop()

    def _url(self) -> str:
        host = f"[{self.server_host}]" if ":" in self.server_host else self.server_host
        return f"http://{host}:{self.server_port or PORT}"

    # The runners

    async def _supervise(self, supervisor: ProcessSupervisor, store: LightningStore, url: str, count: int) -> None:
        """Start the runners, and restart any that crash. Return when all have exited without an error."""
        recovery = CrashRecovery(store, self._max_restarts)
        for worker in range(count):
            supervisor.start(worker, url)
        try:
            while supervisor.running:
                exited = await supervisor.next_exit()
                if exited.crash is not None:
                    raise exited.crash.as_error()
                if exited.exitcode:
                    await recovery.recover(exited)
                    supervisor.start(exited.worker, url)
        finally:
            await supervisor.stop(self._grace_seconds)


@dataclass
class CrashRecovery:
    """Handles the crashes of runner processes during a run."""

    store: LightningStore
    max_restarts: int
    _crashes_in_a_row: int = 0
    _failed_by_crash: int = 0
    _ended_otherwise: int = 0

    async def recover(self, crash: ProcessExit) -> None:
        """Mark a crashed runner's unfinished attempts as `unresponsive`. The store may then retry their rollouts.

        Raises `RunnerDied` after more than `max_restarts` consecutive crashes. The count starts again after a rollout
        has succeeded, or has failed for a reason other than a crash.
        """
        prefix = worker_id_prefix(crash.pid)
        lost = [each for each in await _unfinished(self.store) if (each.attempt.worker_id or "").startswith(prefix)]
        for rollout in lost:
            await self._end_attempt(rollout, crash)
        ids = ", ".join(rollout.rollout_id for rollout in lost) or "none"
        logger.error(
            "[Worker %d] Process %d %s; its unfinished rollouts: %s.", crash.worker, crash.pid, crash.cause, ids
        )
        await self._count(crash)

    async def _end_attempt(self, rollout: AttemptedRollout, crash: ProcessExit) -> None:
        with suppress(Conflict, NotFound):
            await self.store.update_attempt(
                rollout.rollout_id,
                rollout.attempt.attempt_id,
                status="unresponsive",
                metadata={"reason": f"its runner's process {crash.cause}"},
            )
        current = await self.store.get_rollout_by_id(rollout.rollout_id)
        self._failed_by_crash += current is not None and current.status == "failed"

    async def _count(self, crash: ProcessExit) -> None:
        by_status = (await self.store.statistics())["rollouts"]
        otherwise = by_status.get("succeeded", 0) + by_status.get("failed", 0) - self._failed_by_crash
        self._crashes_in_a_row = 1 if otherwise > self._ended_otherwise else self._crashes_in_a_row + 1
        self._ended_otherwise = otherwise
        if self._crashes_in_a_row > self.max_restarts:
            raise RunnerDied(
                f"runner processes died {self._crashes_in_a_row} times, and no rollout ended in between; the last one "
                f"{crash.cause}"
            )


async def requeue_stale_attempts(store: LightningStore, before: float) -> None:
    """Requeue unfinished rollouts whose runner ran in a process on this machine that no longer exists.

    The function ignores attempts that started at or after the Unix time `before`. It also ignores attempts on other
    machines, because their runners may still be running. If these runners are dead, the store ends the attempts when
    their deadlines expire.
    """
    for rollout in await _unfinished(store):
        if _is_stale(rollout.attempt, before):
            with suppress(Conflict, NotFound):
                await store.update_rollout(rollout.rollout_id, status="requeuing")
                logger.info(
                    "Rollout %s was lost when its runner's process ended; it has been requeued.", rollout.rollout_id
                )


async def _wait_for_remote_runners(url: str) -> None:
    logger.info("Waiting for runners at %s.", url)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(LINGER_SECONDS)


def _role(role: str) -> Role:
    if role not in get_args(Role):
        raise InvalidInput(f"the role must be both, algorithm or runner, not {role!r} (AGL_CURRENT_ROLE)", field="role")
    return cast("Role", role)


def _port(role: Role) -> int:
    value = os.environ.get("AGL_SERVER_PORT")
    if not value:
        return 0 if role == "both" else PORT
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > 65_535:
        raise InvalidInput(f"AGL_SERVER_PORT must be a number from 0 to 65535, not {value!r}", field="server_port")
    return int(value)


def _is_enabled(name: str) -> bool:
    return os.environ.get(name, "1").strip().lower() not in ("0", "false", "no", "off")


async def _unfinished(store: LightningStore) -> list[AttemptedRollout]:
    rollouts = await store.query_rollouts(status_in=["preparing", "running"])
    return [rollout for rollout in rollouts if isinstance(rollout, AttemptedRollout)]


def _is_stale(attempt: Attempt, before: float) -> bool:
    host = f"{socket.gethostname()}-"
    if attempt.start_time >= before or attempt.worker_id is None or not attempt.worker_id.startswith(host):
        return False
    pid = attempt.worker_id.removeprefix(host).partition("-")[0]
    return pid.isdigit() and not is_process_alive(int(pid))
