"""How a run is going, in one answer that costs the same however many rollouts there are, give or take.

Sums of rewards come from an index alone; rates, workers and errors from the newest few hundred rollouts.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from ...types import RolloutMode
from ..contract import ErrorCount, RewardStep, Summary, VersionScore
from ..database import Row, Transaction
from .base import SqlBase

STEPS = 100
"""Points of the reward curve: each is an equal share of the rollouts, in the order they were made."""
LEAST_SHARE = 8
"""Fewer rewards than this say nothing by their mean."""
MOST_VERSIONS = 200
NEWEST_ENDED = 500
NEWEST_FAILED = 300
RECENT_SECONDS = 60.0
ENOUGH_RECENT = 20

REST = 20
"""After a summary comes a rest of as long as it took, times this: 5 % of one core at the very most."""
SHORTEST_REST = 0.25


class Summaries(SqlBase):
    """What an onlooker wants to know first."""

    _next_summary: asyncio.Future[Summary] | None = None
    _no_summary_before = 0.0

    async def summary(self) -> Summary:
        # All who ask during a rest are given the one that follows it.
        following = self._next_summary
        if following is None or following.get_loop() is not asyncio.get_running_loop():
            following = self._next_summary = asyncio.ensure_future(self._summary_in_turn())
        return await asyncio.shield(following)

    async def _summary_in_turn(self) -> Summary:
        await asyncio.sleep(self._no_summary_before - time.monotonic())
        # Who asks from now on may know of something that this one does not.
        self._next_summary = None
        began = time.monotonic()
        try:
            return await self._database.read(self._summarize)
        finally:
            ended = time.monotonic()
            self._no_summary_before = ended + max(SHORTEST_REST, REST * (ended - began))

    async def _summarize(self, transaction: Transaction) -> Summary:
        now = self._clock.now()
        rollouts = await _by_status(transaction, "rollouts")
        ended = await _newest_ended(transaction)
        recent = _recent([row[0] for row in ended], now)
        unfinished = sum(rollouts.get(status, 0) for status in ("queuing", "requeuing", "preparing", "running"))
        going_on = unfinished and recent and (now - recent[0] < RECENT_SECONDS or rollouts.get("running"))
        rate = len(recent) / max(1.0, now - recent[-1]) if going_on else None
        return Summary(
            time=now,
            rollouts=rollouts,
            workers=await _by_status(transaction, "workers"),
            ended_per_minute=None if rate is None else rate * 60,
            seconds_left=None if rate is None else unfinished / rate,
            ended_per_minute_by_worker={} if rate is None else _by_worker(ended[: len(recent)], now),
            steps=await _steps(transaction),
            versions=await _versions(transaction),
            errors=await _errors(transaction),
        )


async def _by_status(transaction: Transaction, table: str) -> dict[str, int]:
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
    """Those of the last minute, or where these are few, a few more."""
    recent = [end for end in ended if end > now - RECENT_SECONDS]
    return recent if len(recent) >= ENOUGH_RECENT else ended[:ENOUGH_RECENT]


def _by_worker(ended: Sequence[Row], now: float) -> dict[str, float]:
    counts = Counter(worker for _, worker in ended if worker is not None)
    minutes = max(1.0, now - ended[-1][0]) / 60 if ended else 1.0
    return {worker: count / minutes for worker, count in counts.items()}


# Rewards


async def _steps(transaction: Transaction) -> list[RewardStep]:
    first, last = (await transaction.fetch("SELECT min(ordinal), max(ordinal) FROM rollouts"))[0]
    if first is None:
        return []
    width = max(LEAST_SHARE, -(-(last - first + 1) // STEPS))
    found = await transaction.fetch(
        "SELECT (ordinal - ?1) / ?2, mode, count(*), sum(reward), sum(reward * reward) FROM rollouts "
        "WHERE reward IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
        first,
        width,
    )
    return [RewardStep(rollout=(step + 1) * width, mode=mode, **_score(*sums)) for step, mode, *sums in found]


async def _versions(transaction: Transaction) -> list[VersionScore]:
    newest = await transaction.fetch(
        "SELECT resources_id, version FROM resources ORDER BY ordinal DESC LIMIT ?1", MOST_VERSIONS
    )
    found = await transaction.fetch(
        "SELECT resources_id, resources_version, mode, count(*), sum(reward), sum(reward * reward) FROM rollouts "
        "WHERE reward IS NOT NULL GROUP BY resources_id, resources_version, mode"
    )
    by_version: dict[tuple[str, int], list[tuple[RolloutMode | None, Any]]] = {}
    for resources_id, version, mode, *sums in found:
        by_version.setdefault((resources_id, version), []).append((mode, sums))
    return [
        VersionScore(resources_id=name, version=version, mode=mode, **_score(*sums))
        for name, version in reversed(newest)
        for mode, sums in by_version.get((name, version), [])
    ]


def _score(count: int, total: float, squares: float) -> dict[str, Any]:
    mean = total / count
    variance = max(0.0, squares - total * mean) / (count - 1) if count > 1 else 0.0
    return {"count": count, "mean": mean, "deviation": variance**0.5}


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
        message = _reason(metadata) or f"{status}, without a reason"
        group = groups.setdefault(_alike(message), ErrorCount(message=message, count=0, rollout_id=rollout_id))
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])


def _reason(metadata: bytes | None) -> str | None:
    said = orjson.loads(metadata).get("reason") if metadata else None
    return said.partition("\n")[0][:300] if isinstance(said, str) else None


_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?=\w*\d)[\w-]+\b")


def _alike(message: str) -> str:
    """The message without what differs from one time to the next: quoted texts, ids, numbers."""
    return _VARYING.sub("…", message)
