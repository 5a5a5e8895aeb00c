"""Recover from runner processes that died: end or requeue their attempts, and limit the number of crashes."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Final

from ..errors import Conflict, NotFound, RunnerDied
from ..processes import is_process_alive
from ..runner.context import worker_id_prefix
from ..store import LightningStore
from ..types import Attempt, AttemptedRollout
from .supervisor import ProcessExit

logger = logging.getLogger(__name__)

MAX_RESTARTS: Final = 10
"""Crashes in a row before the run fails. Agents that crash their process occasionally never reach so many."""


class CrashRecovery:
    """Handles the crashes of one run's runners."""

    def __init__(self, store: LightningStore, max_restarts: int) -> None:
        self._store = store
        self._max_restarts = max_restarts
        self._crashes_in_a_row = 0
        self._failed_by_crash = 0
        self._ended_otherwise = 0

    async def recover(self, crash: ProcessExit) -> None:
        """End the attempts of a dead runner as `unresponsive`, so that they are retried if configured.

        Raises `RunnerDied` after too many crashes without a rollout that ended in another way between them.
        """
        prefix = worker_id_prefix(crash.pid)
        lost = [each for each in await _unfinished(self._store) if (each.attempt.worker_id or "").startswith(prefix)]
        for rollout in lost:
            await self._end_attempt(rollout, crash)
        ids = ", ".join(rollout.rollout_id for rollout in lost) or "none"
        logger.error(
            "[Worker %d] Process %d %s; its unfinished rollouts: %s.", crash.worker, crash.pid, crash.cause, ids
        )
        await self._count(crash)

    async def _end_attempt(self, rollout: AttemptedRollout, crash: ProcessExit) -> None:
        with suppress(Conflict, NotFound):
            await self._store.update_attempt(
                rollout.rollout_id,
                rollout.attempt.attempt_id,
                status="unresponsive",
                metadata={"reason": f"its runner's process {crash.cause}"},
            )
        current = await self._store.get_rollout_by_id(rollout.rollout_id)
        self._failed_by_crash += current is not None and current.status == "failed"

    async def _count(self, crash: ProcessExit) -> None:
        by_status = (await self._store.statistics())["rollouts"]
        otherwise = by_status.get("succeeded", 0) + by_status.get("failed", 0) - self._failed_by_crash
        self._crashes_in_a_row = 1 if otherwise > self._ended_otherwise else self._crashes_in_a_row + 1
        self._ended_otherwise = otherwise
        if self._crashes_in_a_row > self._max_restarts:
            raise RunnerDied(
                f"runner processes died {self._crashes_in_a_row} times, and no rollout ended in between; the last one "
                f"{crash.cause}"
            )


async def requeue_stale_attempts(store: LightningStore, before: float) -> None:
    """Requeue rollouts whose attempt started `before` a time, in a process of this machine that is gone.

    Runners on other machines may be alive and working; for dead ones the store's deadlines apply.
    """
    for rollout in await _unfinished(store):
        if _is_stale(rollout.attempt, before):
            with suppress(Conflict, NotFound):
                await store.update_rollout(rollout.rollout_id, status="requeuing")
                logger.info("Rollout %s was lost with its runner's process; it is queued again.", rollout.rollout_id)


async def _unfinished(store: LightningStore) -> list[AttemptedRollout]:
    rollouts = await store.query_rollouts(status_in=["preparing", "running"])
    return [rollout for rollout in rollouts if isinstance(rollout, AttemptedRollout)]


def _is_stale(attempt: Attempt, before: float) -> bool:
    host = f"{socket.gethostname()}-"
    if attempt.start_time >= before or attempt.worker_id is None or not attempt.worker_id.startswith(host):
        return False
    pid = attempt.worker_id.removeprefix(host).partition("-")[0]
    return pid.isdigit() and not is_process_alive(int(pid))
