"""Repeated power cuts: everything that a store has acknowledged before a cut exists after it.

    python -m tests.faults.power_cut --cuts 10000

Each time, a store works on a disk whose power is cut at a moment chosen by the seed. Another store opens the files as
they would be after the cut, and its contents are compared with what was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from agentlightning.errors import StoreUnavailable
from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.db import connections
from agentlightning.store.maintenance import check_database
from agentlightning.types import Span

from .disk import FaultyDisk, restore
from .long_run import run_from_command_line

TASKS, ROUNDS = 4, 4
OPERATIONS = 330
"""Operations of the disk in a complete run; the power is cut at one of them."""
CHECKPOINT_PAGES = 12
"""Pages of log between checkpoints, so few that many cuts happen during one."""


@dataclass
class PowerCutResult:
    """Counts of the cuts, and their effects."""

    cuts: int = 0
    within_work: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list[str])
    damaged: list[str] = field(default_factory=list[str])

    @property
    def problems(self) -> list[str]:
        return self.lost + self.damaged

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts, {self.within_work} during work: of {self.acknowledged} acknowledged operations "
            f"{len(self.lost)} lost, {len(self.damaged)} databases damaged"
        )


async def cut_power_repeatedly(
    folder: Path,
    cuts: int,
    *,
    seed: int = 1,
    durability: Literal["full", "process"] = "full",
    ignore_sync: bool = False,
    result: PowerCutResult | None = None,
) -> PowerCutResult:
    """Cut the power repeatedly; with `ignore_sync` the disk's syncs have no effect, as on some drives."""
    result = result or PowerCutResult()
    before, connections.CHECKPOINT_PAGES = connections.CHECKPOINT_PAGES, CHECKPOINT_PAGES
    try:
        for number in range(seed, seed + cuts):
            with TemporaryDirectory(dir=folder) as subfolder:
                disk = FaultyDisk(seed=number, ignore_sync=ignore_sync)
                disk.power_cut_at = random.Random(number).randrange(40, OPERATIONS)
                await _cut_power(Path(subfolder), disk, number, durability, result)
    finally:
        connections.CHECKPOINT_PAGES = before
    return result


async def _cut_power(
    folder: Path, disk: FaultyDisk, seed: int, durability: Literal["full", "process"], result: PowerCutResult
) -> None:
    acknowledged = list[tuple[str, str]]()
    with disk.mounted():
        try:
            store = SqliteLightningStore(folder / "agl.db", durability=durability)
        except Exception:  # the cut came while the tables were created, before anything was acknowledged
            store = None
        else:
            await asyncio.gather(*(_work(store, number, acknowledged) for number in range(TASKS)))
        result.within_work += store is not None and disk.image_at_power_cut is not None
        image = disk.image_at_power_cut or disk.image_after_power_cut()
        disk.power_cut_at = disk.image_at_power_cut = None  # so that this process can close its files
        if store is not None:
            await store.close()
    result.cuts += 1
    result.acknowledged += len(acknowledged)
    restore(image, folder / "after")
    await _compare(folder / "after" / "agl.db", seed, acknowledged, result)


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


async def _compare(path: Path, seed: int, acknowledged: list[tuple[str, str]], result: PowerCutResult) -> None:
    stored = set[tuple[str, str]]()
    try:
        async with SqliteLightningStore(path) as store:
            result.damaged += [f"seed {seed}: {finding}" for finding in check_database(path)]
            stored = await _stored_changes(store)
    except Exception as error:
        result.damaged.append(f"seed {seed}: {error!r}")
    result.lost += [f"seed {seed}: {change} of {rollout_id}" for change, rollout_id in set(acknowledged) - stored]


async def _stored_changes(store: LightningStore) -> set[tuple[str, str]]:
    stored = set[tuple[str, str]]()
    for rollout in await store.query_rollouts():
        stored.add(("rollout", rollout.rollout_id))
        if rollout.status == "succeeded":
            stored.add(("success", rollout.rollout_id))
        if (await store.query_spans(rollout.rollout_id)).total:
            stored.add(("span", rollout.rollout_id))
    return stored


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
    result = PowerCutResult()
    run_from_command_line(
        "power_cut",
        __doc__,
        result,
        lambda given, folder: asyncio.run(cut_power_repeatedly(folder, given.cuts, seed=given.seed, result=result)),
        cuts=10_000,
        seed=int(time.time()),
    )


if __name__ == "__main__":
    main()
