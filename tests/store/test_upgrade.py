"""Databases of older releases: they are copied, migrated, and keep their contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteLightningStore
from agentlightning.store.sql import schema

from ..contract.making import ended, everything, soon
from .kept_databases import contents, kept_versions, unpack


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agl.db"


def test_current_schema_has_a_kept_database() -> None:
    """If this fails, run `python -m tests.store.kept_databases` and commit the new files."""
    assert kept_versions()[0] == 1
    assert kept_versions()[-1] == len(schema.STEPS)


@pytest.mark.parametrize("version", kept_versions())
async def test_kept_database_opens_with_its_contents(path: Path, version: int) -> None:
    expected = unpack(version, path)

    async with SqliteLightningStore(path) as store:
        assert known_fields(await contents(store), expected) == expected
        claimed = await soon(store.dequeue_rollout(worker_id="worker-1"))
        assert claimed.input == {"n": 5}
        await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")
        assert (await store.hold_lease("run", "holder"))["holder"] == "holder"

    copy = path.with_name(f"agl.db.before-{len(schema.STEPS)}")
    assert copy.exists() == (version < len(schema.STEPS))


def known_fields(value: Any, expected: Any) -> Any:
    """Return `value` without the fields that later releases have added."""
    if isinstance(expected, dict):
        return {name: known_fields(value[name], expected[name]) for name in expected}
    if isinstance(expected, list):
        return [known_fields(*each) for each in zip(value, expected, strict=True)]
    return value


async def test_older_database_is_copied_and_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_failed_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
