"""Requests made up from the store's own description, sound and unsound, at a real `agl store`: none may break it.

    python -m tests.faults.fuzz --requests 200000

Every operation of `/openapi.json` gets its share. Ids are often of things that are there, so that more than the door
is tried; nothing waits for longer than a moment. `/events` is no part of the description: it never ends.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode

from agentlightning.store import LightningStoreClient

from ..contract.making import claimed, ended, span
from ..processes import Program
from .results import on_record

AT_ONCE = 5_000
"""Requests from which each operation gets its share, so that a run that is broken off has tried them all."""
UNSOUND_SHARE = 0.4
KNOWN_IDS_SHARE = 0.7
WAITS = {"wait", "timeout"}


@dataclass
class Fuzzed:
    """What the store answered."""

    tried: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])
    operations: int = 0
    broken: list[str] = field(default_factory=list[str])
    """Requests that were answered with 500 or more, or not at all."""

    def __str__(self) -> str:
        return (
            f"{self.tried} made-up requests to {self.operations} operations: {len(self.broken)} answers of "
            f"500 or more {dict(sorted(self.statuses.items()))}"
        )


def fuzz(folder: Path, many: int, *, first_seed: int = 1, result: Fuzzed | None = None) -> Fuzzed:
    """So many requests, and then a look whether all is in order."""
    result = result or Fuzzed()
    with Program("agentlightning.cli", "store", "--port", "0", "--db", str(folder / "agl.db")) as store:
        url = store.wait_for_line(r"(http://\S+?),? ")[1].rstrip(",")
        ids = asyncio.run(_filled(url))
        while (missing := many - result.tried) > 0:
            _send(url, ids, result, result.tried + min(missing, AT_ONCE), first_seed + result.tried)
        asyncio.run(_all_can_be_listed(url))
    return result


def _send(url: str, ids: dict[str, list[str]], result: Fuzzed, until: int, number: int) -> None:
    """Made-up requests until so many have been tried."""
    page = requests.get(f"{url}/openapi.json", timeout=10).json()
    operations = [each.ok() for each in schemathesis.openapi.from_dict(page).get_all_operations()]
    result.operations, chance = len(operations), random.Random(number)
    with requests.Session() as session:

        def send(case: Case) -> None:
            if result.tried < until:
                _aim(case, ids, chance)
                _note(case, url, session, result)

        while (missing := until - result.tried) > 0:  # some have little to vary
            share = -(-missing // len(operations))
            for operation in operations:
                number += 1
                unsound = round(share * UNSOUND_SHARE) if operation.body or operation.query else 0  # any text is an id
                _draw(operation, GenerationMode.POSITIVE, share - unsound, number, send)
                _draw(operation, GenerationMode.NEGATIVE, unsound, number, send)
            operations = [each for each in operations if each.body]


def _draw(operation: Any, mode: GenerationMode, many: int, number: int, send: Callable[[Case], None]) -> None:
    """So many cases of one operation."""
    if many:
        exactly = settings(
            max_examples=many,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(exactly(given(case=operation.as_strategy(generation_mode=mode))(send)))()


def _note(case: Case, url: str, session: requests.Session, result: Fuzzed) -> None:
    try:
        answer = case.call(base_url=url, session=session, timeout=60)
    except requests.RequestException as error:
        result.broken.append(f"{case.method} {case.path}: {error!r}")
        return
    finally:
        result.tried += 1
    result.statuses[answer.status_code] += 1
    if answer.status_code >= 500:
        result.broken.append(f"{answer.status_code}: {case.as_curl_command()}")


def _aim(case: Case, ids: dict[str, list[str]], chance: random.Random) -> None:
    """Let it often name what is there, and never wait."""
    for part in (case.path_parameters, case.query, case.body):
        if not isinstance(part, dict):
            continue
        for name in part:
            if name in ids and chance.random() < KNOWN_IDS_SHARE:
                part[name] = chance.choice(ids[name])
            if name in WAITS and isinstance(part[name], (int, float)):
                part[name] = 0
    if case.path == "/wait_for_rollouts" and isinstance(case.body, dict):
        case.body.setdefault("timeout", 0)
        if case.body["timeout"] is None:
            case.body["timeout"] = 0


async def _filled(url: str) -> dict[str, list[str]]:
    """A store with something of each kind in it; what is there."""
    async with LightningStoreClient(url) as store:
        update = await store.add_resources({"prompt": "Hello"})
        running = await claimed(store, worker_id="worker-1")
        await store.add_span(span(running))
        over = await ended(store, worker_id="worker-1")
        queued = await store.enqueue_rollout("task")
        return {
            "rollout_id": [running.rollout_id, over.rollout_id, queued.rollout_id],
            "attempt_id": [running.attempt.attempt_id, "latest"],
            "resources_id": [update.resources_id],
            "worker_id": ["worker-1"],
        }


async def _all_can_be_listed(url: str) -> None:
    """Whatever was let in did no harm."""
    async with LightningStoreClient(url) as store:
        for rollout in await store.query_rollouts():
            await store.query_attempts(rollout.rollout_id)
            await store.query_spans(rollout.rollout_id)
        await store.query_resources()
        await store.query_workers()
        await store.enqueue_rollout("one more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    result = Fuzzed()
    with on_record("fuzz", result, seed=asked.seed), TemporaryDirectory() as folder:
        fuzz(Path(folder), asked.requests, first_seed=asked.seed, result=result)
    print(*result.broken, sep="\n")
    raise SystemExit(bool(result.broken))


if __name__ == "__main__":
    main()
