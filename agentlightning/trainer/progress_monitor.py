"""ProgressMonitor: reads a run's progress from the store and passes it to the callbacks.

The store is polled and the callbacks are called in a separate thread. An algorithm that blocks its event loop therefore
does not delay the callbacks, and a slow callback does not delay the algorithm. RunStatistics computes totals for the
run's rollouts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

from ..algorithm.journal import SESSION_MARK, is_journal_session
from ..store import LightningStore
from ..store.contract import AnyRollout
from ..types import AttemptedRollout, RolloutStatus
from .callbacks import Callback, RunProgress
from .result import CandidateResult, RunResult

logger = logging.getLogger(__name__)

POLL_INTERVAL_PROGRESS: Final = 1.0
RATE_WINDOW: Final = 20.0
"""Length, in seconds, of the time window in which the completion rate is measured."""
PAGE_SIZE: Final = 1000
MAX_REASON: Final = 200
FINAL: Final[list[RolloutStatus]] = ["succeeded", "failed", "cancelled"]


class ProgressMonitor:
    """Reports a run's progress, metrics and result to the callbacks."""

    def __init__(self, store: LightningStore, callbacks: Sequence[Callback]) -> None:
        self.statistics = RunStatistics(store)
        self._callbacks = callbacks
        self._start = time.monotonic()
        self._stop = Event()
        self._samples: deque[tuple[float, int]] = deque()
        """Pairs of a time and the number of rollouts completed by then, for the last `RATE_WINDOW` seconds."""
        self._last: RunProgress | None = None
        self._failing: set[object] = set()
        """The callbacks whose last call failed, and the monitor itself if it could not read the progress."""
        # Use a single worker thread, so that callbacks are called one at a time.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="agl-monitor")

    def start(self, folder: Path) -> None:
        """Call the callbacks' `on_start` and start polling."""
        self._call_each(lambda callback: callback.on_start(folder))
        self._executor.submit(self._poll)

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Pass the algorithm's metrics to the callbacks."""
        copied = dict(values)
        self._executor.submit(self._call_each, lambda callback: callback.on_metrics(copied, step))

    async def finish(self) -> None:
        """Stop polling, then read and report the progress one last time."""
        self._stop.set()
        await asyncio.wrap_future(self._executor.submit(self._read_progress))

    def end(self, result: RunResult) -> None:
        """Call the callbacks' `on_end`."""
        self._call_each(lambda callback: callback.on_end(result))
        self._executor.shutdown(wait=False)

    def _poll(self) -> None:
        start = time.monotonic()
        self._read_progress()
        # Polling a large store takes long. To limit the load, wait at least 20 times as long as the poll took.
        if not self._stop.wait(max(POLL_INTERVAL_PROGRESS, 20 * (time.monotonic() - start))):
            self._executor.submit(self._poll)

    def _read_progress(self) -> None:
        try:
            progress = asyncio.run(self._progress())
        except Exception as error:
            problem = "The run's progress could not be read"
            self._log_first_failure(self, problem, "trying again at the next poll", error)
            return
        self._failing.discard(self)
        if self._last is None or _counts(self._last) != _counts(progress):
            self._last = progress
            self._call_each(lambda callback: callback.on_progress(progress))

    async def _progress(self) -> RunProgress:
        await self.statistics.update()
        counts = await self.statistics.counts()
        succeeded = counts.get("succeeded", 0)
        failed = counts.get("failed", 0) + counts.get("cancelled", 0)
        return RunProgress(
            seconds=time.monotonic() - self._start,
            queued=counts.get("queuing", 0) + counts.get("requeuing", 0),
            running=counts.get("preparing", 0) + counts.get("running", 0),
            succeeded=succeeded,
            failed=failed,
            mean_reward=self.statistics.mean_reward,
            rate=self._rate(succeeded + failed),
        )

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        if not self._samples:  # do not count rollouts that were completed before the run was resumed
            self._samples.append((self._start, done))
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        return max(0.0, (done - before) / (now - since)) if now > since else 0.0

    def _call_each(self, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            try:
                call(callback)
                self._failing.discard(callback)
            except Exception as error:
                problem = f"The callback {type(callback).__name__} failed"
                self._log_first_failure(callback, problem, "the run continues", error)

    def _log_first_failure(self, failing: object, problem: str, consequence: str, error: Exception) -> None:
        """Log a failure unless the previous call failed as well. The traceback of an OSError is not logged."""
        if failing not in self._failing:
            details = None if isinstance(error, OSError) else error
            logger.error("%s (%s); %s", problem, error, consequence, exc_info=details)
        self._failing.add(failing)


def _counts(progress: RunProgress) -> tuple[int, int, int]:
    return progress.queued, progress.running, progress.done


@dataclass
class _Candidate:
    """Totals for the rollouts that used one version of a set of resources."""

    rollouts: int = 0
    failed: int = 0
    rewards: list[float] = field(default_factory=list[float])


class RunStatistics:
    """Totals for a run's rollouts. `update` reads each rollout only once, after it has ended."""

    def __init__(self, store: LightningStore) -> None:
        self._store = store
        self._rollouts_read = 0
        self._candidates: dict[tuple[str | None, int | None], _Candidate] = {}
        self._reasons: Counter[str] = Counter()

    @property
    def mean_reward(self) -> float | None:
        """Mean reward of all rollouts that have a reward, or None if there are none."""
        rewards = [reward for candidate in self._candidates.values() for reward in candidate.rewards]
        return math.fsum(rewards) / len(rewards) if rewards else None

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
        """Return the number of rollouts with each status, not counting those that contain the algorithm's journal."""
        by_status = dict((await self._store.statistics())["rollouts"])
        for rollout in await self._store.query_rollouts(text_contains=f'"{SESSION_MARK}"', cut_at=1):
            if is_journal_session(rollout):
                by_status[rollout.status] = by_status.get(rollout.status, 0) - 1
        return {status: count for status, count in by_status.items() if count > 0}

    def failures(self) -> dict[str, int]:
        """Return the number of failed rollouts for each reason, with the most frequent reason first."""
        return dict(self._reasons.most_common())

    def history(self) -> list[CandidateResult]:
        """Return one result for each version of each set of resources."""
        return [_candidate_result(*key, candidate) for key, candidate in self._candidates.items()]

    def _add(self, rollout: AnyRollout) -> None:
        candidate = self._candidates.setdefault((rollout.resources_id, rollout.resources_version), _Candidate())
        candidate.rollouts += 1
        if rollout.reward is not None:
            candidate.rewards.append(rollout.reward)
        if rollout.status == "failed":
            candidate.failed += 1
            metadata = rollout.attempt.metadata if isinstance(rollout, AttemptedRollout) else None
            self._reasons[str((metadata or {}).get("reason") or "no reason given")[:MAX_REASON]] += 1


def _candidate_result(resources_id: str | None, version: int | None, candidate: _Candidate) -> CandidateResult:
    n = len(candidate.rewards)
    mean = math.fsum(candidate.rewards) / n if n else None
    squares = [] if mean is None else [(reward - mean) ** 2 for reward in candidate.rewards]
    return CandidateResult(
        resources_id=resources_id,
        version=version,
        rollouts=candidate.rollouts,
        failed=candidate.failed,
        rewarded=n,
        mean_reward=mean,
        standard_error=math.sqrt(math.fsum(squares) / (n - 1) / n) if n > 1 else None,
    )
