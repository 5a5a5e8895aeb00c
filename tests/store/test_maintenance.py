"""Maintenance of a database: backup, consistency checks, and deletion of old rollouts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentlightning.errors import InvalidInput, StoreUnavailable
from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.factory import open_for_maintenance
from agentlightning.store.maintenance import backup, check_database, collect_garbage

from ..conftest import Figure
from ..contract.making import claimed, ended, everything, span
from ..postgres import empty_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agl.db"


# Backups


async def test_backup_under_load_contains_all_acknowledged_changes(path: Path, figure: Figure) -> None:
    async with SqliteLightningStore(path) as store:
        acknowledged: list[str] = []
        load = asyncio.gather(*(run_rollouts(store, acknowledged) for _ in range(4)))
        copies = 5
        for number in range(copies):
            await wait_for(acknowledged, more_than=20 * (number + 1))
            before = list(acknowledged)
            await asyncio.to_thread(backup, path, path.with_name(f"copy-{number}"))
            copied = await succeeded_in(path.with_name(f"copy-{number}"))
            assert copied.issuperset(before)
            assert check_database(path.with_name(f"copy-{number}")) == []
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
    figure(f"{copies} copies under load, {len(acknowledged)} rollouts, none of those acknowledged before is missing")


async def test_backup_never_overwrites_a_file(path: Path) -> None:
    await SqliteLightningStore(path).close()
    path.with_name("copy").write_text("precious")

    with pytest.raises(InvalidInput, match="never overwrites"):
        backup(path, path.with_name("copy"))

    assert path.with_name("copy").read_text() == "precious"


def test_backup_of_a_missing_database_is_rejected(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no database"):
        backup(path, path.with_name("copy"))

    assert not path.exists()


# Checks


async def test_check_finds_no_damage_in_an_open_database(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await ended(store)
        await claimed(store)
        await store.enqueue_rollout("queued")

        assert check_database(path) == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE rollouts SET queue_position = NULL", "is not in the queue"),
        ("UPDATE rollouts SET status = 'failed'", "is in the queue but"),
        ("UPDATE rollouts SET attempt_id = 'at-none'", "refers to an attempt that does not exist"),
        (
            (
                "INSERT INTO attempts (rollout_id, attempt_id, sequence_id, start_time, status, lease_start, "
                "lease_seen, last_sequence_id) VALUES ('ro-none', 'at-9', 1, 0, 'failed', 0, 0, 0)"
            ),
            "has attempts but does not exist",
        ),
    ],
)
async def test_check_finds_inconsistent_rows(path: Path, damage: str, finding: str) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
    apsw.Connection(str(path)).execute(damage)

    assert any(finding in line for line in check_database(path))


async def test_check_finds_a_corrupt_file(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        for _ in range(20):
            await ended(store, input="x" * 2_000)
    overwrite_pages(path)

    assert check_database(path)


# Deletion


async def test_gc_deletes_old_rollouts_with_their_spans(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        old = await claimed(store)
        await store.add_span(span(old))
        await store.update_attempt(old.rollout_id, "latest", status="succeeded")
        await store.enqueue_rollout("queued")
        running = await store.dequeue_rollout()
        recent = await ended(store)
        await store._database.write(
            lambda transaction: transaction.execute(
                "UPDATE rollouts SET end_time = end_time - 86400 WHERE rollout_id = ?1", old.rollout_id
            )
        )

        async with open_for_maintenance(str(path)) as alongside:
            assert await collect_garbage(alongside, 3600, dry_run=True) == 1
            assert await collect_garbage(alongside, 3600) == 1

        left = await everything(store)
        assert running is not None
        assert [rollout.rollout_id for rollout in left["rollouts"]] == [running.rollout_id, recent.rollout_id]
        assert left["statistics"]["spans"] == 0
        assert left["statistics"]["attempts"] == 2
        assert check_database(path) == []


async def test_gc_deletes_from_postgres() -> None:
    from agentlightning.store import PostgresLightningStore

    async with empty_database() as url, PostgresLightningStore(url) as store:
        await ended(store)
        await store.enqueue_rollout("queued")

        async with open_for_maintenance(url) as alongside:
            assert await collect_garbage(alongside, -1) == 1

        assert [rollout.status for rollout in await store.query_rollouts()] == ["queuing"]


def overwrite_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 8] = bytes(4096 * 5)
    path.write_bytes(content)


async def run_rollouts(store: LightningStore, acknowledged: list[str]) -> None:
    while True:
        rollout = await store.start_rollout("task")
        await store.add_span(span(rollout, attributes={"text": "x" * 1_000}))
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
        acknowledged.append(rollout.rollout_id)


async def wait_for(acknowledged: list[str], *, more_than: int) -> None:
    async with asyncio.timeout(60):
        while len(acknowledged) <= more_than:  # noqa: ASYNC110 (the load makes the progress)
            await asyncio.sleep(0.005)


async def succeeded_in(path: Path) -> set[str]:
    async with SqliteLightningStore(path) as copy:
        found: Any = await copy.query_rollouts(status_in=["succeeded"])
        return {rollout.rollout_id for rollout in found}
