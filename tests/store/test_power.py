"""Power cuts and failing disks: nothing acknowledged is lost, nothing is acknowledged that was not kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteLightningStore
from agentlightning.store.care import check

from ..contract.making import span
from ..faults.disk import Disk
from ..faults.power_cut import cut_again_and_again

CUTS = 200


async def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path) -> None:
    result = await cut_again_and_again(tmp_path, CUTS)

    print(result)
    assert result.cuts == CUTS
    assert result.within_work > CUTS // 2
    assert (result.lost, result.damaged) == ([], [])


async def test_the_power_cuts_find_a_store_that_does_not_sync(tmp_path: Path) -> None:
    """What shows that the test above can fail."""
    result = await cut_again_and_again(tmp_path, 20, durability="process")

    print(result)
    assert result.lost


async def test_the_power_cuts_find_a_disk_that_only_says_that_it_syncs(tmp_path: Path) -> None:
    result = await cut_again_and_again(tmp_path, 20, honest=False)

    print(result)
    assert result.lost


@pytest.mark.parametrize("what", ["full", "write", "sync"])
async def test_a_failing_disk_yields_no_acknowledgement_and_loses_none(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A script of 100 operations; the disk fails at each of them once."""
    path, points, refused = tmp_path / "agl.db", 100, 0
    disk, kept = Disk(), dict[str, int]()
    with disk.used():
        async with SqliteLightningStore(path) as store:
            running: Any = None
            for point in range(points):
                disk.broken = what
                with pytest.raises(StoreUnavailable):
                    await step(store, point, running, kept)
                refused += 1
                disk.broken = None
                running = await step(store, point, running, kept)

    print(f"{what}: {refused} of {points} calls refused while the disk failed, {disk.failures} failures")
    assert check(path) == []
    async with SqliteLightningStore(path) as store:
        assert {rollout.rollout_id for rollout in await store.query_rollouts()} == set(kept)
        assert {rollout_id: (await store.query_spans(rollout_id)).total for rollout_id in kept} == kept


async def step(store: SqliteLightningStore, point: int, running: Any, kept: dict[str, int]) -> Any:
    """One operation of the script: a rollout, three spans, its end, and again."""
    match point % 5:
        case 0:
            running = await store.start_rollout({"point": point})
            kept[running.rollout_id] = 0
        case 4:
            await store.update_attempt(running.rollout_id, "latest", status="succeeded")
        case number:
            await store.add_span(span(running, number, attributes={"text": "x" * 3_000}))
            kept[running.rollout_id] += 1
    return running


FILLING = """
import asyncio, resource, sys
from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteLightningStore

async def main(path):
    async with SqliteLightningStore(path) as store:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, most))
        kept = 0
        try:
            while True:
                await store.enqueue_rollout("x" * 5_000)
                kept += 1
        except StoreUnavailable:
            pass
        assert (await store.statistics())["queue_depth"] == kept
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        await store.enqueue_rollout("works again")
    print(kept + 1)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_disk_that_is_really_full_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "agl.db"

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FILLING, str(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    async with SqliteLightningStore(path) as store:
        assert (await store.query_rollouts()).total == int(said) > 1
