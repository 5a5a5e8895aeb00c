"""RunStatistics: sums over the completed rollouts of a run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ..algorithm.journal import SESSION_MARK, is_journal_session
from ..store import LightningStore
from ..store.contract import AnyRollout
from ..types import AttemptedRollout, RolloutStatus
from .result import CandidateResult

PAGE_SIZE: Final = 1000
MAX_REASON: Final = 200
FINAL: Final[list[RolloutStatus]] = ["succeeded", "failed", "cancelled"]


@dataclass
class _Candidate:
    """Sums over the rollouts with one version of some resources."""

    rollouts: int = 0
    failed: int = 0
    rewards: list[float] = field(default_factory=list[float])


class RunStatistics:
    """Reads each rollout once, after its end."""

    def __init__(self, store: LightningStore) -> None:
        self._store = store
        self._rollouts_read = 0
        self._candidates: dict[tuple[str | None, int | None], _Candidate] = {}
        self._reward_count = 0
        self._reward_sum = 0.0
        self._reasons: Counter[str] = Counter()

    @property
    def mean_reward(self) -> float | None:
        """Over all rollouts with a reward."""
        return self._reward_sum / self._reward_count if self._reward_count else None

    async def update(self) -> None:
        """Read the rollouts that have ended since the last update."""
        while page := list(
            await self._store.query_rollouts(
                status_in=FINAL, sort_by="end_time", limit=PAGE_SIZE, offset=self._rollouts_read, cut_at=1
            )
        ):
            self._rollouts_read += len(page)
            for rollout in page:
                if not is_journal_session(rollout):
                    self._add(rollout)

    async def counts(self) -> dict[str, int]:
        """Return the number of rollouts by status, without the algorithm's journal."""
        by_status = dict((await self._store.statistics())["rollouts"])
        for rollout in await self._store.query_rollouts(text_contains=f'"{SESSION_MARK}"', cut_at=1):
            if is_journal_session(rollout):
                by_status[rollout.status] = by_status.get(rollout.status, 0) - 1
        return {status: count for status, count in by_status.items() if count > 0}

    def failures(self) -> dict[str, int]:
        """Return the number of failed rollouts by reason, the most frequent first."""
        return dict(self._reasons.most_common())

    def history(self) -> list[CandidateResult]:
        """Return the result of each version of the resources."""
        return [_candidate_result(*key, candidate) for key, candidate in self._candidates.items()]

    def _add(self, rollout: AnyRollout) -> None:
        candidate = self._candidates.setdefault((rollout.resources_id, rollout.resources_version), _Candidate())
        candidate.rollouts += 1
        if rollout.reward is not None:
            candidate.rewards.append(rollout.reward)
            self._reward_count += 1
            self._reward_sum += rollout.reward
        if rollout.status == "failed":
            candidate.failed += 1
            metadata = rollout.attempt.metadata if isinstance(rollout, AttemptedRollout) else None
            self._reasons[str((metadata or {}).get("reason") or "no reason given")[:MAX_REASON]] += 1


def _candidate_result(resources_id: str | None, version: int | None, candidate: _Candidate) -> CandidateResult:
    n = len(candidate.rewards)
    mean = math.fsum(candidate.rewards) / n if n else None
    error = None
    if mean is not None and n > 1:
        error = math.sqrt(math.fsum((reward - mean) ** 2 for reward in candidate.rewards) / (n - 1) / n)
    return CandidateResult(
        resources_id=resources_id,
        version=version,
        rollouts=candidate.rollouts,
        failed=candidate.failed,
        rewarded=n,
        mean_reward=mean,
        standard_error=error,
    )
