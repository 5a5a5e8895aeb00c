"""Tally: what has come of a run's rollouts so far, added up as they end."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ..algorithm.journal import SESSION_MARK, is_journal_session
from ..store import LightningStore
from ..store.contract import AnyRollout
from ..types import AttemptedRollout, RolloutStatus
from .result import Tried

PAGE: Final = 1000
LONGEST_REASON: Final = 200
ENDED: Final[list[RolloutStatus]] = ["succeeded", "failed", "cancelled"]


@dataclass
class _Sum:
    """Rollouts with the same version of the same resources."""

    rollouts: int = 0
    failed: int = 0
    rewards: list[float] = field(default_factory=list[float])

    def add(self, rollout: AnyRollout) -> None:
        self.rollouts += 1
        self.failed += rollout.status == "failed"
        if rollout.reward is not None:
            self.rewards.append(rollout.reward)


class Tally:
    """Reads each rollout once, after it has ended."""

    def __init__(self, store: LightningStore) -> None:
        self._store = store
        self._read = 0
        self._sittings_ended = 0
        self._sums: dict[tuple[str | None, int | None], _Sum] = {}
        self._rewards = 0
        self._reward_sum = 0.0
        self._reasons: Counter[str] = Counter()

    @property
    def mean_reward(self) -> float | None:
        """Over all rollouts that have one."""
        return self._reward_sum / self._rewards if self._rewards else None

    async def catch_up(self) -> None:
        """Read what has ended since the last time."""
        while page := list(
            await self._store.query_rollouts(
                status_in=ENDED, sort_by="end_time", limit=PAGE, offset=self._read, cut_at=1
            )
        ):
            self._read += len(page)
            for rollout in page:
                self._add(rollout)

    async def counts(self) -> dict[str, int]:
        """Rollouts by status, without the algorithm's own."""
        by_status = dict((await self._store.statistics())["rollouts"])
        for rollout in await self._store.query_rollouts(text_contains=f'"{SESSION_MARK}"', cut_at=1):
            if is_journal_session(rollout):
                by_status[rollout.status] = by_status.get(rollout.status, 0) - 1
        return {status: count for status, count in by_status.items() if count > 0}

    def failures(self) -> dict[str, int]:
        """How many have failed for each reason, the most frequent first."""
        return dict(self._reasons.most_common())

    def history(self) -> list[Tried]:
        """What came of each version of the resources."""
        return [_tried(*key, found) for key, found in self._sums.items()]

    def _add(self, rollout: AnyRollout) -> None:
        if is_journal_session(rollout):
            return
        self._sums.setdefault((rollout.resources_id, rollout.resources_version), _Sum()).add(rollout)
        if rollout.reward is not None:
            self._rewards += 1
            self._reward_sum += rollout.reward
        if rollout.status == "failed":
            self._reasons[_reason(rollout)] += 1


def _reason(rollout: AnyRollout) -> str:
    about = rollout.attempt.metadata if isinstance(rollout, AttemptedRollout) else None
    return str((about or {}).get("reason") or "no reason was given")[:LONGEST_REASON]


def _tried(resources_id: str | None, version: int | None, found: _Sum) -> Tried:
    n = len(found.rewards)
    mean = math.fsum(found.rewards) / n if n else None
    error = None
    if mean is not None and n > 1:
        error = math.sqrt(math.fsum((reward - mean) ** 2 for reward in found.rewards) / (n - 1) / n)
    return Tried(
        resources_id=resources_id,
        version=version,
        rollouts=found.rollouts,
        failed=found.failed,
        rewarded=n,
        mean_reward=mean,
        standard_error=error,
    )
