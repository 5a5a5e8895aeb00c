"""Rollouts whose runner was killed together with everything else go back to the queue."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress

from ..errors import Conflict, NotFound
from ..store import LightningStore
from ..types import Attempt, AttemptedRollout

logger = logging.getLogger(__name__)


async def requeue_orphans(store: LightningStore, before: float) -> None:
    """Put rollouts back in the queue that were begun `before`, by workers of this machine which are no more.

    Runners on other machines may well be alive and at work; of those that are not, the store hears in time.
    """
    for rollout in await store.query_rollouts(status_in=["preparing", "running"]):
        if isinstance(rollout, AttemptedRollout) and _is_orphan(rollout.attempt, before):
            with suppress(Conflict, NotFound):
                await store.update_rollout(rollout.rollout_id, status="requeuing")
                logger.info("%s was held by a runner that is gone; it is in the queue again.", rollout.rollout_id)


def _is_orphan(attempt: Attempt, before: float) -> bool:
    here = f"{socket.gethostname()}-"
    if attempt.start_time >= before or attempt.worker_id is None or not attempt.worker_id.startswith(here):
        return False
    pid = attempt.worker_id.removeprefix(here).partition("-")[0]
    return pid.isdigit() and not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there, other than this one."""
    if pid == os.getpid():
        return False  # an earlier life of this number: here, nobody had begun before
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
