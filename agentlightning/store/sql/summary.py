"""How a run is going, in one answer that costs about the same however long the run is.

What has ended for good is added up once and kept; only the part of the run that may still change is read every time.
Rates and errors come from the newest few hundred rollouts.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import orjson

from ..contract import ErrorCount, RewardStep, Summary, VersionScore
from ..db.database import Row, Transaction
from .base import SqlBase
from .sums import Sums, score

MOST_VERSIONS = 200
NEWEST_ENDED = 500
NEWEST_FAILED = 300
RECENT_SECONDS = 60.0
ENOUGH_RECENT = 20
UNFINISHED = ("queuing", "requeuing", "preparing", "running")

KEPT_SECONDS = 600.0
"""After so long all is added up anew: a reward may have come late, or old rollouts may have been deleted."""


class Summaries(SqlBase):
    """What an onlooker wants to know first."""

    _settled: Sums | None = None
    _settled_until = 0.0

    async def summary(self) -> Summary:
        return await self._shared.answer("summary", lambda: self._database.read(self._summarize))

    async def _summarize(self, transaction: Transaction) -> Summary:
        now = self._clock.now()
        sums = await self._sums(transaction)
        ended = await _newest_ended(transaction)
        recent = _recent([row[0] for row in ended], now)
        unfinished = sum(sums.statuses[status] for status in UNFINISHED)
        going_on = unfinished and recent and (now - recent[0] < RECENT_SECONDS or sums.statuses["running"])
        rate = len(recent) / max(1.0, now - recent[-1]) if going_on else None
        return Summary(
            time=now,
            rollouts=dict(sorted(sums.statuses.items())),
            workers=await _workers(transaction),
            ended_per_minute=None if rate is None else rate * 60,
            seconds_left=None if rate is None else unfinished / rate,
            ended_per_minute_by_worker={} if rate is None else _by_worker(ended[: len(recent)], now),
            steps=_steps(sums),
            versions=await _versions(transaction, sums),
            errors=await _errors(transaction),
        )

    async def _sums(self, transaction: Transaction) -> Sums:
        """Of all rollouts: those that are settled as they are known, and the rest as it is now."""
        first, last = await _ends(transaction)
        settled = self._settled
        if settled is None or settled.first != first or time.monotonic() > self._settled_until:
            settled, self._settled_until = Sums(first), time.monotonic() + KEPT_SECONDS
        settled = settled.wide_enough_for(last)
        settled.add(await _read(transaction, settled, until := await _first_unfinished(transaction, last)), until)
        self._settled = settled
        whole = settled.wide_enough_for(last)
        whole.add(await _read(transaction, whole, last + 1), last + 1)
        if waiting := await _waiting(transaction):
            whole.statuses["queuing"] = waiting
        return whole


async def _ends(transaction: Transaction) -> tuple[int, int]:
    """The first and the last rollout's number; 1 and 0 where there is none."""
    found = await transaction.fetch("SELECT (SELECT min(ordinal) FROM rollouts), (SELECT max(ordinal) FROM rollouts)")
    first, last = found[0]
    return (1, 0) if first is None else (first, last)


async def _first_unfinished(transaction: Transaction, last: int) -> int:
    statuses = ", ".join(f"'{status}'" for status in UNFINISHED)
    found = await transaction.fetch(f"SELECT min(ordinal) FROM rollouts WHERE status IN ({statuses})")
    return last + 1 if found[0][0] is None else found[0][0]


async def _waiting(transaction: Transaction) -> int:
    """Rollouts that nobody has begun; there may be very many, and there is nothing more to be known of them."""
    return (await transaction.fetch("SELECT count(*) FROM rollouts WHERE status = 'queuing'"))[0][0]


async def _read(transaction: Transaction, sums: Sums, until: int) -> Sequence[Row]:
    """What `sums` does not know yet of the rollouts before `until`."""
    return await transaction.fetch(
        "SELECT (ordinal - ?1) / ?2, mode, resources_id, resources_version, status, count(*), count(reward), "
        "sum(reward), sum(reward * reward) FROM rollouts WHERE ordinal >= ?3 AND ordinal < ?4 "
        "AND status <> 'queuing' GROUP BY 1, 2, 3, 4, 5",
        sums.first,
        sums.width,
        sums.until,
        until,
    )


async def _workers(transaction: Transaction) -> dict[str, int]:
    found = await transaction.fetch("SELECT status, count(*) FROM workers GROUP BY status")
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


def _steps(sums: Sums) -> list[RewardStep]:
    ordered = sorted(sums.steps.items(), key=lambda one: (one[0][0], one[0][1] or ""))
    return [RewardStep(rollout=(step + 1) * sums.width, mode=mode, **score(*known)) for (step, mode), known in ordered]


async def _versions(transaction: Transaction, sums: Sums) -> list[VersionScore]:
    newest = await transaction.fetch(
        "SELECT resources_id, version FROM resources ORDER BY ordinal DESC LIMIT ?1", MOST_VERSIONS
    )
    return [
        VersionScore(resources_id=name, version=version, mode=mode, **score(*known))
        for name, version in reversed(newest)
        for mode, known in sorted(sums.versions.get((name, version), {}).items(), key=lambda one: one[0] or "")
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
        message = _reason(metadata) or f"{status}, without a reason"
        group = groups.setdefault(_alike(message), ErrorCount(message=message, count=0, rollout_id=rollout_id))
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])


def _reason(metadata: bytes | None) -> str | None:
    said = orjson.loads(metadata).get("reason") if metadata else None
    return said.partition("\n")[0][:300] if isinstance(said, str) else None


_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\b(?=\w*\d)[\w-]+\b")


@lru_cache(maxsize=2 * NEWEST_FAILED)
def _alike(message: str) -> str:
    """The message without what differs from one time to the next: quoted texts, ids, numbers."""
    return _VARYING.sub("…", message)
