"""Requests generated from the store's OpenAPI document, valid and invalid, to a real `agl store`: none may break it.

    python -m tests.faults.fuzz --requests 200000

Every operation of `/openapi.json` gets its share. Ids are often those of existing objects, so that more than the
validation is tested; no request waits for long. `/events` is not in the document, because its response never ends.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode

from agentlightning.store import LightningStoreClient
from agentlightning.types import PromptTemplate

from ..contract.making import claimed, ended, span
from ..processes import Program
from .long_run import run_from_command_line

BATCH_SIZE = 5_000
"""Requests that are shared among all operations, so that an interrupted run has tested each of them."""
SENT_PER_CASE = 4
"""A case takes 30 ms to generate, and a variant of it takes none."""
INVALID_SHARE = 0.4
EXISTING_IDS_SHARE = 0.7
WAITING_PARAMETERS = {"wait", "timeout"}


@dataclass
class FuzzResult:
    """The store's responses."""

    tried: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])
    operations: int = 0
    broken: list[str] = field(default_factory=list[str])
    """Requests with a status of 500 or more, or without a response."""

    @property
    def problems(self) -> list[str]:
        return self.broken

    def __str__(self) -> str:
        return (
            f"{self.tried} generated requests to {self.operations} operations: {len(self.broken)} responses with "
            f"status 500 or more {dict(sorted(self.statuses.items()))}"
        )


def fuzz(folder: Path, count: int, *, first_seed: int = 1, result: FuzzResult | None = None) -> FuzzResult:
    """Send the requests, then check that everything in the store can still be listed."""
    result = result or FuzzResult()
    with Program("agentlightning.cli", "store", "--port", "0", "--db", str(folder / "agl.db")) as store:
        url = store.wait_for_line(r"(http://\S+?),? ")[1].rstrip(",")
        ids = asyncio.run(_fill(url))
        while (missing := count - result.tried) > 0:
            _send_batch(url, ids, result, result.tried + min(missing, BATCH_SIZE), first_seed + result.tried)
        asyncio.run(_list_everything(url))
    return result


def _send_batch(url: str, ids: dict[str, list[str]], result: FuzzResult, until: int, number: int) -> None:
    """Send generated requests until `until` have been sent."""
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    operations: list[Any] = [
        each.ok()  # pyright: ignore[reportAttributeAccessIssue] - an invalid operation fails the test
        for each in schemathesis.openapi.from_dict(document).get_all_operations()
    ]
    result.operations, rng = len(operations), random.Random(number)
    with requests.Session() as session:
        seen = list[Any]()

        def send(case: Case) -> None:
            for _ in range(min(SENT_PER_CASE, until - result.tried)):
                _use_existing_ids(case, ids, rng)
                _send(case, url, session, result)
                _exchange_value(case, seen, rng)

        while (missing := until - result.tried) > 0:  # some operations have few distinct requests
            share = -(-missing // (len(operations) * SENT_PER_CASE))
            for operation in operations:
                number += 1
                # Without a body or a query, any request is valid: every text is an id.
                invalid = round(share * INVALID_SHARE) if operation.body or operation.query else 0
                _generate(operation, GenerationMode.POSITIVE, share - invalid, number, send)
                _generate(operation, GenerationMode.NEGATIVE, invalid, number, send)
            operations = [each for each in operations if each.body]


def _generate(operation: Any, mode: GenerationMode, cases: int, number: int, send: Callable[[Case], None]) -> None:
    """Call `send` with generated cases of one operation."""
    if cases:
        exactly = settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list[Any](HealthCheck),
        )
        seed(number)(exactly(given(case=operation.as_strategy(generation_mode=mode))(send)))()


def _send(case: Case, url: str, session: requests.Session, result: FuzzResult) -> None:
    try:
        response = case.call(base_url=url, session=session, timeout=60)
    except requests.RequestException as error:
        result.broken.append(f"{case.method} {case.path}: {error!r}")
        return
    finally:
        result.tried += 1
    result.statuses[response.status_code] += 1
    if response.status_code >= 500:
        result.broken.append(f"{response.status_code}: {case.as_curl_command()}")


def _exchange_value(case: Case, seen: list[Any], rng: random.Random) -> None:
    """Replace the value of one field by a value that an earlier case had in any field."""
    parts: list[dict[str, Any]] = [part for part in (case.query, case.body) if isinstance(part, dict)]
    fields = [(part, name) for part in parts for name in part if name not in WAITING_PARAMETERS]
    if fields:
        part, name = rng.choice(fields)
        seen.append(part[name])
        part[name] = rng.choice(seen)


def _use_existing_ids(case: Case, ids: dict[str, list[str]], rng: random.Random) -> None:
    """Replace some ids by existing ones, and all waiting times by 0."""
    for part in (case.path_parameters, case.query, case.body):
        if not isinstance(part, dict):
            continue
        for name in part:
            if name in ids and rng.random() < EXISTING_IDS_SHARE:
                part[name] = rng.choice(ids[name])
            if name in WAITING_PARAMETERS and isinstance(part[name], (int, float)):
                part[name] = 0
    if case.path == "/wait_for_rollouts" and isinstance(case.body, dict) and case.body.get("timeout") is None:
        case.body["timeout"] = 0


async def _fill(url: str) -> dict[str, list[str]]:
    """Add an object of each kind to the store; return their ids."""
    async with LightningStoreClient(url) as store:
        update = await store.add_resources({"prompt": PromptTemplate(template="Hello")})
        running = await claimed(store, worker_id="worker-1")
        await store.add_span(span(running))
        finished = await ended(store, worker_id="worker-1")
        queued = await store.enqueue_rollout("task")
        return {
            "rollout_id": [running.rollout_id, finished.rollout_id, queued.rollout_id],
            "attempt_id": [running.attempt.attempt_id, "latest"],
            "resources_id": [update.resources_id],
            "worker_id": ["worker-1"],
        }


async def _list_everything(url: str) -> None:
    """List everything in the store; no accepted request may prevent that."""
    async with LightningStoreClient(url) as store:
        for rollout in await store.query_rollouts():
            await store.query_attempts(rollout.rollout_id)
            await store.query_spans(rollout.rollout_id)
        await store.query_resources()
        await store.query_workers()
        await store.enqueue_rollout("one more")


def main() -> None:
    result = FuzzResult()
    run_from_command_line(
        "fuzz",
        __doc__,
        result,
        lambda given, folder: fuzz(folder, given.requests, first_seed=given.seed, result=result),
        requests=200_000,
        seed=1,
    )


if __name__ == "__main__":
    main()
