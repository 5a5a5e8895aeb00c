"""Power cuts and failing disks: nothing acknowledged is lost, nothing is acknowledged that was not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.store.db.sqlite import SqliteDatabase

from ..conftest import Figure
from ..faults.disk import Disk
from ..faults.failing_disk import POINTS, CannotMount, fail_at_every_point, fail_by_limit, fail_on_small_disk
from ..faults.lossy import served
from ..faults.power_cut import cut_again_and_again
from .raw import Raw

CUTS = 200


async def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path, figure: Figure) -> None:
    result = await cut_again_and_again(tmp_path, CUTS)

    figure(result)
    assert result.cuts == CUTS
    assert result.within_work > CUTS // 2
    assert (result.lost, result.damaged) == ([], [])


async def test_the_power_cuts_find_a_store_that_does_not_sync(tmp_path: Path, figure: Figure) -> None:
    """What shows that the test above can fail."""
    result = await cut_again_and_again(tmp_path, 20, durability="process")

    figure(f"seeded bug, synchronous=NORMAL: {result}")
    assert result.lost


async def test_the_power_cuts_find_a_disk_that_only_says_that_it_syncs(tmp_path: Path, figure: Figure) -> None:
    result = await cut_again_and_again(tmp_path, 20, honest=False)

    figure(f"seeded bug, a disk without fsync: {result}")
    assert result.lost


@pytest.mark.parametrize("how", ["full", "write", "sync"])
async def test_a_failing_disk_yields_no_acknowledgement_and_loses_none(
    tmp_path: Path, how: str, figure: Figure
) -> None:
    result = await fail_at_every_point(tmp_path / "agl.db", how)

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_a_call_that_the_disk_cannot_keep_is_answered_with_503(tmp_path: Path) -> None:
    disk = Disk()
    with disk.used():
        async with served(SqliteLightningStore(tmp_path / "agl.db")) as server, Raw(server.endpoint) as raw:
            disk.broken = "sync"
            refused = await raw.call("enqueue_rollout", {"input": 1})
            disk.broken = None
            accepted = await raw.call("enqueue_rollout", {"input": 2})

            assert (refused.status, refused.headers["Retry-After"], accepted.status) == (503, "1", 200)
            assert [rollout.input for rollout in await server.query_rollouts()] == [2]


async def test_a_kernel_that_refuses_to_write_costs_nothing_that_was_acknowledged(
    tmp_path: Path, figure: Figure
) -> None:
    result = await fail_by_limit(tmp_path / "agl.db")

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_a_small_disk_that_is_full_costs_nothing_that_was_acknowledged(tmp_path: Path, figure: Figure) -> None:
    try:
        result = await fail_on_small_disk(tmp_path)
    except CannotMount as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_the_failing_disk_finds_a_store_that_answers_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows that the tests above can fail."""

    def say_nothing(database: SqliteDatabase, group: Any, error: Any) -> None:
        if database._connection.in_transaction:
            database._connection.execute("ROLLBACK")

    monkeypatch.setattr(SqliteDatabase, "_give_up", say_nothing)

    assert (await fail_at_every_point(tmp_path / "agl.db", "write")).refused == 0
