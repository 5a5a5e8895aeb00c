"""Power cuts and failing disks: no acknowledged change is lost, and no unstored change is acknowledged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.store.db.sqlite import SqliteDatabase

from ..conftest import Figure
from ..faults.disk import Failure, FaultyDisk
from ..faults.failing_disk import POINTS, CannotMount, fail_at_every_point, fail_by_limit, fail_on_small_disk
from ..faults.lossy import served
from ..faults.power_cut import cut_power_repeatedly
from .raw import Raw

CUTS = 200


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the faulty disk itself decides which writes are kept."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


async def test_acknowledged_changes_survive_power_cuts(memory_folder: Path, figure: Figure) -> None:
    result = await cut_power_repeatedly(memory_folder, CUTS)

    figure(result)
    assert result.cuts == CUTS
    assert result.within_work > CUTS // 2
    assert (result.lost, result.damaged) == ([], [])


async def test_power_cuts_detect_a_store_without_sync(tmp_path: Path, figure: Figure) -> None:
    """Shows that the test above detects this fault."""
    result = await cut_power_repeatedly(tmp_path, 20, durability="process")

    figure(f"seeded bug, synchronous=NORMAL: {result}")
    assert result.lost


async def test_power_cuts_detect_a_disk_that_ignores_sync(tmp_path: Path, figure: Figure) -> None:
    result = await cut_power_repeatedly(tmp_path, 20, ignore_sync=True)

    figure(f"seeded bug, a disk without fsync: {result}")
    assert result.lost


@pytest.mark.parametrize("how", ["full", "write", "sync"])
async def test_failing_disk_loses_no_acknowledged_change(tmp_path: Path, how: Failure, figure: Figure) -> None:
    result = await fail_at_every_point(tmp_path / "agl.db", how)

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_disk_error_returns_503(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with disk.mounted():
        async with served(SqliteLightningStore(tmp_path / "agl.db")) as server, Raw(server.endpoint) as raw:
            disk.failure = "sync"
            refused = await raw.call("enqueue_rollout", {"input": 1})
            disk.failure = None
            accepted = await raw.call("enqueue_rollout", {"input": 2})

            assert (refused.status, refused.headers["Retry-After"], accepted.status) == (503, "1", 200)
            assert [rollout.input for rollout in await server.query_rollouts()] == [2]


async def test_write_errors_of_the_kernel_lose_no_acknowledged_change(tmp_path: Path, figure: Figure) -> None:
    result = await fail_by_limit(tmp_path / "agl.db")

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_full_disk_loses_no_acknowledged_change(tmp_path: Path, figure: Figure) -> None:
    try:
        result = await fail_on_small_disk(tmp_path)
    except CannotMount as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")

    figure(result)
    assert (result.operations, result.refused, result.wrong) == (POINTS, POINTS, [])


async def test_failing_disk_detects_a_store_that_acknowledges_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the tests above detect this fault."""

    def ignore_error(database: SqliteDatabase, group: Any, error: Any) -> None:
        if database._connection.in_transaction:
            database._connection.execute("ROLLBACK")

    monkeypatch.setattr(SqliteDatabase, "_fail_group", ignore_error)

    assert (await fail_at_every_point(tmp_path / "agl.db", "write")).refused == 0
