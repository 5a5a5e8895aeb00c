"""The lock of a trainer's store: a second trainer is refused, and a dead one does not block."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import StoreInUse
from agentlightning.trainer.run_folder import folders
from agentlightning.trainer.store_lock import LEASE


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    async with agl.InMemoryLightningStore() as store:
        yield store


def train(store: Any, algorithm: Any = None) -> Any:
    trainer = agl.Trainer(algorithm=algorithm, strategy="shm", tracer=agl.OtelTracer, progress=False, store=store)
    return trainer.fit(lambda task: 0.5, [1])


def other_trainer(**about: Any) -> dict[str, Any]:
    return {"holder": "other", "about": {"run": "theirs", "host": "far-away", "pid": 7} | about}


async def test_second_trainer_is_refused_with_the_name_of_the_first(store: agl.LightningStore):
    await store.hold_lease(LEASE, **other_trainer())

    with pytest.raises(StoreInUse, match=r"already in use by run theirs, process 7 on far-away, last seen [0-9] s ago"):
        await asyncio.to_thread(train, store)

    assert list(folders()) == []  # the refused run is not one to resume
    assert (await store.statistics())["rollouts"] == {}
    await store.hold_lease(LEASE, "other", 0)
    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_second_trainer_of_the_same_process_is_refused(store: agl.LightningStore):
    refused: list[str] = []

    @agl.algo
    def nested(store: agl.LightningStore) -> None:
        try:
            train(store)
        except StoreInUse as error:
            refused.append(str(error))

    await asyncio.to_thread(train, store, nested)

    assert "nested" in refused[0]
    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_failed_trainer_releases_the_lock(store: agl.LightningStore):
    @agl.algo
    def fails(store: agl.LightningStore) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(train, store, fails)

    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_lock_of_a_dead_trainer_on_this_machine_is_taken_over(store: agl.LightningStore):
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    await store.hold_lease(LEASE, **other_trainer(host=socket.gethostname(), pid=dead.pid))

    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_trainer_that_lost_the_lock_stops(store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentlightning.trainer.store_lock.RENEWAL_INTERVAL", 0.05)

    @agl.algo
    async def loses_the_lock(store: agl.LightningStore) -> None:
        mine = await store.hold_lease(LEASE, "probe")
        await store.hold_lease(LEASE, mine["holder"], 0)
        await store.hold_lease(LEASE, **other_trainer())
        await asyncio.Event().wait()

    with pytest.raises(StoreInUse, match="did not renew its lock for 60 s: the store is already in use by run theirs"):
        await asyncio.to_thread(train, store, loses_the_lock)
