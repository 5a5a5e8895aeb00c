"""Power cuts, again and again: what a store acknowledged before the power went is there when it is back.

    python -m tests.faults.power_cut --cuts 10000

Each time a store works on a disk whose power goes at a moment that the seed decides; the files as they would be then
are opened by another store and compared with what was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from agentlightning.errors import StoreUnavailable
from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.db import sqlite as sqlite_module
from agentlightning.store.maintenance import check
from agentlightning.types import Span

from .disk import Disk, restore
from .results import on_record

TASKS, ROUNDS = 4, 4
LONGEST_RUN = 330
"""Operations of the disk in a whole run; the power goes at one of them."""
SMALL_LOG = 12
"""Pages of log between checkpoints, so that the power goes during many of them."""


@dataclass
class Cuts:
    """What came of some cuts."""

    cuts: int = 0
    within_work: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list[str])
    damaged: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts, {self.within_work} in the middle of work: of {self.acknowledged} acknowledged "
            f"operations {len(self.lost)} lost, {len(self.damaged)} databases damaged"
        )


async def cut_again_and_again(
    folder: Path,
    cuts: int,
    *,
    seed: int = 1,
    durability: Literal["full", "process"] = "full",
    honest: bool = True,
    result: Cuts | None = None,
) -> Cuts:
    """So many cuts; with `honest=False` the disk's syncs do nothing, as on drives that lie."""
    result = result or Cuts()
    before, sqlite_module.CHECKPOINT_PAGES = sqlite_module.CHECKPOINT_PAGES, SMALL_LOG
    try:
        for number in range(cuts):
            with TemporaryDirectory(dir=folder) as at:
                await _one(Path(at), seed + number, durability, honest, result)
    finally:
        sqlite_module.CHECKPOINT_PAGES = before
    return result


async def _one(at: Path, seed: int, durability: Any, honest: bool, result: Cuts) -> None:
    disk, acknowledged = Disk(seed=seed, honest=honest), list[tuple[str, str]]()
    disk.cut_at = random.Random(seed).randrange(40, LONGEST_RUN)
    with disk.used():
        try:
            store = SqliteLightningStore(at / "agl.db", durability=durability)
        except Exception:  # while it made its tables: there is nothing to lose yet
            store = None
        else:
            await asyncio.gather(*(_work(store, number, acknowledged) for number in range(TASKS)))
        within_work, left = store is not None and disk.left is not None, disk.left or disk.image()
        disk.cut_at = disk.left = None  # only so that this process can close its files
        if store is not None:
            await store.close()
    result.cuts += 1
    result.within_work += within_work
    result.acknowledged += len(acknowledged)
    restore(left, at / "after")
    await _compare(at / "after" / "agl.db", seed, acknowledged, result)


async def _work(store: LightningStore, number: int, acknowledged: list[tuple[str, str]]) -> None:
    try:
        for step in range(ROUNDS):
            rollout = await store.start_rollout({"task": number, "text": "x" * 500 * step})
            rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
            acknowledged.append(("rollout", rollout_id))
            await store.add_span(_span(rollout_id, attempt_id, step))
            acknowledged.append(("span", rollout_id))
            await store.update_attempt(rollout_id, attempt_id, status="succeeded")
            acknowledged.append(("success", rollout_id))
    except StoreUnavailable:
        return


async def _compare(path: Path, seed: int, acknowledged: list[tuple[str, str]], result: Cuts) -> None:
    there = set[tuple[str, str]]()
    try:
        async with SqliteLightningStore(path) as store:
            result.damaged += [f"seed {seed}: {finding}" for finding in check(path)]
            there = await _held(store)
    except Exception as error:
        result.damaged.append(f"seed {seed}: {error!r}")
    result.lost += [f"seed {seed}: {what} of {rollout_id}" for what, rollout_id in set(acknowledged) - there]


async def _held(store: LightningStore) -> set[tuple[str, str]]:
    held = set[tuple[str, str]]()
    for rollout in await store.query_rollouts():
        held.add(("rollout", rollout.rollout_id))
        if rollout.status == "succeeded":
            held.add(("success", rollout.rollout_id))
        if (await store.query_spans(rollout.rollout_id)).total:
            held.add(("span", rollout.rollout_id))
    return held


def _span(rollout_id: str, attempt_id: str, number: int) -> Span:
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        trace_id=f"{1:032x}",
        span_id=f"{number + 1:016x}",
        name="step",
        attributes={"text": "y" * 700 * number},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    result = Cuts()
    with on_record("power_cut", result, seed=arguments.seed), TemporaryDirectory() as folder:
        asyncio.run(cut_again_and_again(Path(folder), arguments.cuts, seed=arguments.seed, result=result))
    raise SystemExit(bool(result.lost or result.damaged))


if __name__ == "__main__":
    main()
