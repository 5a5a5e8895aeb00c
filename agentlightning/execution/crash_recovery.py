"""What a dead runner leaves behind: its attempts are ended at once, and too many deaths in a row end the run."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from ..errors import Conflict, NotFound, RunnerDied
from ..runner.worker import worker_id_prefix
from ..store import LightningStore
from ..types import AttemptedRollout
from .supervisor import Ended

logger = logging.getLogger(__name__)

MAX_RESTARTS: Final = 10
"""Deaths in a row that are borne. Agents that now and then take their process with them never come to so many."""


class Losses:
    """The deaths of one run."""

    def __init__(self, store: LightningStore, max_restarts: int) -> None:
        self._store = store
        self._most = max_restarts
        self._in_a_row = 0
        self._failed_by_death = 0
        self._ended_otherwise = 0

    async def note(self, ended: Ended) -> None:
        """End the attempts of a dead runner as `unresponsive`, so that they are retried where that is configured.

        Raises `RunnerDied` after too many deaths without a rollout that ended in another way between them.
        """
        lost = await self._held_by(ended.pid)
        for rollout in lost:
            await self._give_up(rollout, ended)
        held = ", ".join(rollout.rollout_id for rollout in lost) or "nothing"
        logger.error("[Worker %d] Its process (%d) %s; it held %s.", ended.worker, ended.pid, ended.how, held)
        await self._count(ended)

    async def _held_by(self, pid: int) -> list[AttemptedRollout]:
        unfinished = await self._store.query_rollouts(status_in=["preparing", "running"])
        return [
            rollout
            for rollout in unfinished
            if isinstance(rollout, AttemptedRollout) and (rollout.attempt.worker_id or "").startswith(worker_id_prefix(pid))
        ]

    async def _give_up(self, rollout: AttemptedRollout, ended: Ended) -> None:
        with suppress(Conflict, NotFound):
            await self._store.update_attempt(
                rollout.rollout_id,
                rollout.attempt.attempt_id,
                status="unresponsive",
                metadata={"reason": f"its runner's process {ended.how}"},
            )
        now = await self._store.get_rollout_by_id(rollout.rollout_id)
        self._failed_by_death += now is not None and now.status == "failed"

    async def _count(self, ended: Ended) -> None:
        by_status = (await self._store.statistics())["rollouts"]
        otherwise = by_status.get("succeeded", 0) + by_status.get("failed", 0) - self._failed_by_death
        self._in_a_row = 1 if otherwise > self._ended_otherwise else self._in_a_row + 1
        self._ended_otherwise = otherwise
        if self._in_a_row > self._most:
            raise RunnerDied(
                f"runners died {self._in_a_row} times, and no rollout ended in between; the last one {ended.how}"
            )
