"""Summary of a run. The time to compute it hardly depends on the length of the run.

The totals for all rollouts before the oldest unfinished one are kept in memory. Normally, only the other rollouts are
read for a new summary. Rates are computed from the rollouts that ended last, and errors from the newest failed
rollouts, a few hundred of each.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import orjson

from ...types import RolloutMode
from ..db.database import Row, Transaction
from ..results import ErrorCount, RewardStep, Summary, VersionScore
from .base import SqlBase

MAX_VERSIONS = 200
"""Maximum number of resource versions in a summary. If there are more, only the newest ones are included."""
NEWEST_ENDED = 500
"""Maximum number of ended rollouts from which rates are computed. The rollouts that ended last are used."""
NEWEST_FAILED = 300
"""Maximum number of failed rollouts whose errors are counted. The newest ones are used."""
RECENT_SECONDS = 60.0
"""Length in seconds of the period, up to the current time, for which rates are computed."""
MIN_RECENT = 20
"""Minimum number of ended rollouts from which a rate is computed. If needed, the period is extended to include them."""
UNFINISHED = ("queuing", "requeuing", "preparing", "running")
RECOMPUTE_SECONDS = 600.0
"""Time in seconds after which the totals in memory are recomputed from all rollouts.

The totals can become outdated, because old rollouts may be deleted.
"""
MAX_STEPS = 200
"""Maximum number of points on the reward curve for each mode. Each point covers the same number of rollouts.

When a run becomes too long for this number of points, adjacent points are merged in pairs.
"""
MIN_STEP_WIDTH = 8
"""Minimum number of rollouts per point on the reward curve. The mean of fewer rewards would not be meaningful."""

Moments = tuple[int, float, float]
"""The number of values, their sum, and the sum of their squares."""


class Summaries(SqlBase):
    """The operation that returns the summary shown on dashboards."""

    _finished: RunTotals | None = None
    _recompute_at = 0.0

    async def summary(self) -> Summary:
        return await self._single_flight.get("summary", lambda: self._database.read(self._summarize))

    async def _summarize(self, transaction: Transaction) -> Summary:
        now = self._clock.now()
        totals = await self._totals(transaction)
        ended = await _newest_ended(transaction)
        recent = _recent([row[0] for row in ended], now)
        unfinished = sum(totals.statuses[status] for status in UNFINISHED)
        in_progress = unfinished and recent and (now - recent[0] < RECENT_SECONDS or totals.statuses["running"])
        rate = len(recent) / max(1.0, now - recent[-1]) if in_progress else None
        return Summary(
            time=now,
            rollouts=dict(sorted(totals.statuses.items())),
            workers=await count_by_status(transaction, "workers"),
            ended_per_minute=None if rate is None else rate * 60,
            seconds_left=None if rate is None else unfinished / rate,
            ended_per_minute_by_worker={} if rate is None else _by_worker(ended[: len(recent)], now),
            steps=_steps(totals),
            versions=await _versions(transaction, totals),
            errors=await _errors(transaction),
        )

    async def _totals(self, transaction: Transaction) -> RunTotals:
        """Return the totals for all rollouts. Normally, read only rollouts that the totals in memory do not include."""
        [(first, last, first_unfinished, queued)] = await transaction.fetch(_ORDINALS)
        first, last = first or 1, last or 0
        finished = self._finished
        if finished is None or finished.first != first or time.monotonic() > self._recompute_at:
            finished, self._recompute_at = RunTotals(first), time.monotonic() + RECOMPUTE_SECONDS
        self._finished = finished = await _extended(transaction, finished, last, first_unfinished or last + 1)
        totals = await _extended(transaction, finished, last, last + 1)
        if queued:
            totals.statuses["queuing"] = queued
        return totals


class RunTotals:
    """Totals for the rollouts with ordinals from `first` up to, but not including, `end`.

    A step is a point on the reward curve. It covers a range of `width` ordinals.
    """

    def __init__(self, first: int, width: int = MIN_STEP_WIDTH) -> None:
        self.first = first
        self.end = first
        self.width = width
        self.statuses = Counter[str]()
        self.steps: dict[tuple[int, RolloutMode | None], Moments] = {}
        self.versions: dict[tuple[str, int], dict[RolloutMode | None, Moments]] = {}

    def widened(self, last: int) -> RunTotals:
        """Return a copy with steps wide enough that at most `MAX_STEPS` steps cover the ordinals up to `last`."""
        copy = RunTotals(self.first, self.width)
        copy.end = self.end
        copy.statuses = self.statuses.copy()
        copy.versions = {version: by_mode.copy() for version, by_mode in self.versions.items()}
        while last - self.first >= MAX_STEPS * copy.width:
            copy.width *= 2
        for (step, mode), moments in self.steps.items():
            _add(copy.steps, (step * self.width // copy.width, mode), moments)
        return copy

    def add(self, rows: Iterable[Row], end: int) -> None:
        """Add groups of rollouts whose ordinals are below `end`.

        Each row describes one group: its step, mode, resources id, resources version and status, the number of rollouts
        in the group, and the moments of their rewards.
        """
        for step, mode, resources_id, version, status, count, *moments in rows:
            self.statuses[status] += count
            if moments[0]:
                _add(self.steps, (step, mode), moments)
                if resources_id is not None:
                    _add(self.versions.setdefault((resources_id, version), {}), mode, moments)
        self.end = max(self.end, end)


def _add(totals: dict[Any, Moments], key: Any, more: Sequence[Any]) -> None:
    count, total, squares = totals.get(key, (0, 0.0, 0.0))
    totals[key] = (count + more[0], total + more[1], squares + more[2])


def _score(count: int, total: float, squares: float) -> dict[str, Any]:
    """Return the count, mean and standard deviation of values, computed from their moments."""
    mean = total / count
    variance = max(0.0, squares - total * mean) / (count - 1) if count > 1 else 0.0
    return {"count": count, "mean": mean, "deviation": variance**0.5}


_ORDINALS = (
    "SELECT (SELECT min(ordinal) FROM rollouts), (SELECT max(ordinal) FROM rollouts), "
    f"(SELECT min(ordinal) FROM rollouts WHERE status IN ({', '.join(repr(status) for status in UNFINISHED)})), "
    "(SELECT count(*) FROM rollouts WHERE status = 'queuing')"
)
"""SQL for the ordinals of the first, the last and the first unfinished rollout, and the number of `queuing` rollouts.

The `queuing` rollouts are counted here with an index, and `_extended` skips them, because there may be many of them.
"""


_REWARD = (
    "(CASE WHEN reward > 1e100 THEN 1e100 WHEN reward < -1e100 THEN -1e100 "
    "WHEN abs(reward) < 1e-100 THEN 0.0 ELSE reward END)"
)
"""SQL for a rollout's reward, limited so that its square neither overflows nor underflows, which PostgreSQL rejects."""


async def _extended(transaction: Transaction, totals: RunTotals, last: int, end: int) -> RunTotals:
    """Return a copy of `totals` that also includes the rollouts with ordinals below `end`, except `queuing` rollouts.

    The steps of the copy are wide enough for a run whose last rollout has the ordinal `last`.
    """
    totals = totals.widened(last)
    found = await transaction.fetch(
        "SELECT (ordinal - ?1) / ?2, mode, resources_id, resources_version, status, count(*), count(reward), "
        f"sum({_REWARD}), sum({_REWARD} * {_REWARD}) FROM rollouts WHERE ordinal >= ?3 AND ordinal < ?4 "
        "AND status <> 'queuing' GROUP BY 1, 2, 3, 4, 5",
        *(totals.first, totals.width, totals.end, end),
    )
    totals.add(found, end)
    return totals


async def count_by_status(transaction: Transaction, table: str) -> dict[str, int]:
    """Return the number of rows in a table by status. Statuses without rows are left out."""
    found = await transaction.fetch(f"SELECT status, count(*) FROM {table} GROUP BY status")
    return {row[0]: row[1] for row in found}


# Rates


async def _newest_ended(transaction: Transaction) -> Sequence[Row]:
    return await transaction.fetch(
        "SELECT e.end_time, a.worker_id FROM (SELECT end_time, rollout_id, attempt_id FROM rollouts "
        "WHERE end_time IS NOT NULL ORDER BY end_time DESC LIMIT ?1) e "
        "LEFT JOIN attempts a ON a.rollout_id = e.rollout_id AND a.attempt_id = e.attempt_id ORDER BY e.end_time DESC",
        NEWEST_ENDED,
    )


def _recent(ended: Sequence[float], now: float) -> Sequence[float]:
    """Return the end times in the last `RECENT_SECONDS`, or the newest `MIN_RECENT` end times if there are fewer.

    `ended` contains the end times from newest to oldest.
    """
    recent = [end for end in ended if end > now - RECENT_SECONDS]
    return recent if len(recent) >= MIN_RECENT else ended[:MIN_RECENT]


def _by_worker(ended: Sequence[Row], now: float) -> dict[str, float]:
    counts = Counter(worker for _, worker in ended if worker is not None)
    minutes = max(1.0, now - ended[-1][0]) / 60 if ended else 1.0
    return {worker: count / minutes for worker, count in counts.items()}


# Rewards


def _steps(totals: RunTotals) -> list[RewardStep]:
    ordered = sorted(totals.steps.items(), key=lambda one: (one[0][0], one[0][1] or ""))
    return [
        RewardStep(rollout=(step + 1) * totals.width, mode=mode, **_score(*moments))
        for (step, mode), moments in ordered
    ]


async def _versions(transaction: Transaction, totals: RunTotals) -> list[VersionScore]:
    newest = await transaction.fetch(
        "SELECT resources_id, version FROM resources ORDER BY ordinal DESC LIMIT ?1", MAX_VERSIONS
    )
    return [
        VersionScore(resources_id=name, version=version, mode=mode, **_score(*moments))
        for name, version in reversed(newest)
        for mode, moments in sorted(totals.versions.get((name, version), {}).items(), key=lambda one: one[0] or "")
    ]


# Errors


async def _errors(transaction: Transaction) -> list[ErrorCount]:
    found = await transaction.fetch(
        "SELECT f.rollout_id, a.metadata, a.status FROM (SELECT rollout_id, attempt_id, start_time FROM rollouts "
        "WHERE status = 'failed' ORDER BY start_time DESC LIMIT ?1) f "
        "JOIN attempts a ON a.rollout_id = f.rollout_id AND a.attempt_id = f.attempt_id ORDER BY f.start_time DESC",
        NEWEST_FAILED,
    )
    groups: dict[str, ErrorCount] = {}
    for rollout_id, metadata, status in found:
        message = _reason(metadata) or f"{status}, no reason given"
        group = groups.setdefault(
            _without_variables(message), ErrorCount(message=message, count=0, rollout_id=rollout_id)
        )
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])


def _reason(metadata: bytes | None) -> str | None:
    reason = orjson.loads(metadata).get("reason") if metadata else None
    return reason.partition("\n")[0][:300] if isinstance(reason, str) else None


_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?=\w*\d)[\w-]+\b")


@lru_cache(maxsize=2 * NEWEST_FAILED)
def _without_variables(message: str) -> str:
    """Replace quoted text, ids and numbers in a message with `…`, so that similar errors can be grouped."""
    return _VARYING.sub("…", message)
