"""What a store's owner does to its database: copy it, check it, delete what is old, bring it to a newer release."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentlightning.errors import InvalidInput, StoreUnavailable
from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.db.backup import backup
from agentlightning.store.maintenance import check, collect
from agentlightning.store.sql import schema

from ..conftest import Figure
from ..contract.making import claimed, ended, everything, span
from ..postgres import empty_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agl.db"


# Copies


async def test_a_copy_under_load_holds_all_that_was_acknowledged_before_it_began(path: Path, figure: Figure) -> None:
    async with SqliteLightningStore(path) as store:
        acknowledged: list[str] = []
        load = asyncio.gather(*(keep_working(store, acknowledged) for _ in range(4)))
        copies = 5
        for number in range(copies):
            await until(acknowledged, more_than=20 * (number + 1))
            before = list(acknowledged)
            await asyncio.to_thread(backup, path, path.with_name(f"copy-{number}"))
            held = await finished_in(path.with_name(f"copy-{number}"))
            assert held.issuperset(before)
            assert check(path.with_name(f"copy-{number}")) == []
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
    figure(f"{copies} copies under load, {len(acknowledged)} rollouts, 0 of those acknowledged before missing")


async def test_a_copy_never_overwrites(path: Path) -> None:
    await SqliteLightningStore(path).close()
    path.with_name("copy").write_text("precious")

    with pytest.raises(InvalidInput, match="never overwrites"):
        backup(path, path.with_name("copy"))

    assert path.with_name("copy").read_text() == "precious"


def test_a_copy_of_nothing_is_refused(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no database"):
        backup(path, path.with_name("copy"))

    assert not path.exists()


# Checks


async def test_a_database_in_use_is_sound(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await ended(store)
        await claimed(store)
        await store.enqueue_rollout("waits")

        assert check(path) == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE rollouts SET queue_position = NULL", "waits for a worker but is not in the queue"),
        ("UPDATE rollouts SET status = 'failed'", "in the queue without waiting"),
        ("UPDATE rollouts SET attempt_id = 'at-none'", "names an attempt that is not there"),
        (
            "INSERT INTO attempts SELECT 9, 'ro-none', 'at-9', 1, 0, NULL, 'failed', NULL, NULL, NULL, 0, 0, NULL, 0",
            "is",
        ),
    ],
)
async def test_what_cannot_be_true_is_found(path: Path, damage: str, finding: str) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
    apsw.Connection(str(path)).execute(damage)

    assert any(finding in line for line in check(path))


async def test_a_file_with_holes_is_found(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        for _ in range(20):
            await ended(store, input="x" * 2_000)
    make_holes(path)

    assert check(path)


# Deleting


async def test_only_what_ended_long_ago_is_deleted_and_all_of_it(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        old = await claimed(store)
        await store.add_span(span(old))
        await store.update_attempt(old.rollout_id, "latest", status="succeeded")
        await store.enqueue_rollout("waits")
        running = await store.dequeue_rollout()
        recent = await ended(store)
        await store._database.write(
            lambda transaction: transaction.execute(
                "UPDATE rollouts SET end_time = end_time - 86400 WHERE rollout_id = ?1", old.rollout_id
            )
        )

        assert await collect(str(path), 3600, dry_run=True) == 1
        assert await collect(str(path), 3600) == 1

        held = await everything(store)
        assert running is not None
        assert [rollout.rollout_id for rollout in held["rollouts"]] == [running.rollout_id, recent.rollout_id]
        assert held["statistics"]["spans"] == 0
        assert held["statistics"]["attempts"] == 2
        assert check(path) == []


async def test_what_is_old_is_deleted_from_postgres_too() -> None:
    from agentlightning.store import PostgresLightningStore

    async with empty_database() as url, PostgresLightningStore(url) as store:
        await ended(store)
        await store.enqueue_rollout("waits")

        assert await collect(url, -1) == 1

        assert [rollout.status for rollout in await store.query_rollouts()] == ["queuing"]


# Releases


async def test_an_older_database_is_copied_and_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteLightningStore(path) as store:
        await ended(store)
        before = await everything(store)
    monkeypatch.setattr(schema, "STEPS", later := [*schema.STEPS, ["ALTER TABLE rollouts ADD COLUMN mood {text}"]])
    monkeypatch.setattr("agentlightning.store.factory.STEPS", later)

    async with SqliteLightningStore(path) as store:
        assert await everything(store) == before
    monkeypatch.undo()

    with pytest.raises(StoreUnavailable, match="written by a newer release"):
        SqliteLightningStore(path)
    async with SqliteLightningStore(path.with_name(f"agl.db.before-{len(later)}")) as store:
        assert await everything(store) == before


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteLightningStore(path) as store:
        await ended(store)
        before = await everything(store)
    broken = [*schema.STEPS, ["ALTER TABLE rollouts ADD COLUMN mood {text}", "ALTER TABLE nowhere ADD COLUMN x"]]
    monkeypatch.setattr(schema, "STEPS", broken)
    monkeypatch.setattr("agentlightning.store.factory.STEPS", broken)

    with pytest.raises(apsw.SQLError):
        SqliteLightningStore(path)
    monkeypatch.undo()

    async with SqliteLightningStore(path) as store:
        assert await everything(store) == before


def make_holes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 8] = bytes(4096 * 5)
    path.write_bytes(content)


async def keep_working(store: LightningStore, acknowledged: list[str]) -> None:
    while True:
        rollout = await store.start_rollout("task")
        await store.add_span(span(rollout, attributes={"text": "x" * 1_000}))
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
        acknowledged.append(rollout.rollout_id)


async def until(acknowledged: list[str], *, more_than: int) -> None:
    async with asyncio.timeout(60):
        while len(acknowledged) <= more_than:  # noqa: ASYNC110 (the load is what is waited for)
            await asyncio.sleep(0.005)


async def finished_in(path: Path) -> set[str]:
    async with SqliteLightningStore(path) as copy:
        found: Any = await copy.query_rollouts(status_in=["succeeded"])
        return {rollout.rollout_id for rollout in found}
