"""One trainer at a store: the second is refused by name, and a dead one is nobody's obstacle."""

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
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    async with agl.InMemoryLightningStore() as store:
        yield store


def train(store: Any, algorithm: Any = None) -> Any:
    trainer = agl.Trainer(algorithm=algorithm, strategy="shm", tracer=agl.OtelTracer, progress=False, store=store)
    return trainer.fit(lambda task: 0.5, [1])


def somebody(**about: Any) -> dict[str, Any]:
    return {"holder": "somebody", "about": {"run": "theirs", "host": "far-away", "pid": 7} | about}


async def test_a_second_trainer_is_refused_and_told_who_holds_the_store(store: agl.LightningStore):
    await store.hold_lease(LEASE, **somebody())

    with pytest.raises(
        StoreInUse, match=r"run theirs of process 7 on far-away holds this store, and was heard of [0-9] s ago"
    ):
        await asyncio.to_thread(train, store)

    assert list(folders()) == []  # so that none is taken for the run to resume
    assert (await store.statistics())["rollouts"] == {}
    await store.hold_lease(LEASE, "somebody", 0)
    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_two_trainers_of_one_process_are_two(store: agl.LightningStore):
    refused: list[str] = []

    @agl.algo
    def another_inside(store: agl.LightningStore) -> None:
        try:
            train(store)
        except StoreInUse as error:
            refused.append(str(error))

    await asyncio.to_thread(train, store, another_inside)

    assert "another_inside" in refused[0]
    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_a_trainer_that_failed_lets_go(store: agl.LightningStore):
    @agl.algo
    def fails(store: agl.LightningStore) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(train, store, fails)

    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_a_trainer_of_this_machine_that_was_killed_is_not_waited_for(store: agl.LightningStore):
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    await store.hold_lease(LEASE, **somebody(host=socket.gethostname(), pid=gone.pid))

    assert (await asyncio.to_thread(train, store)).status == "finished"


async def test_a_trainer_that_was_given_up_stops_when_another_has_the_store(
    store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("agentlightning.trainer.store_lock.BEAT_SECONDS", 0.05)

    @agl.algo
    async def loses_it(store: agl.LightningStore) -> None:
        mine = await store.hold_lease(LEASE, "who?")
        await store.hold_lease(LEASE, mine["holder"], 0)
        await store.hold_lease(LEASE, **somebody())
        await asyncio.Event().wait()

    with pytest.raises(StoreInUse, match="this trainer was not heard of for 60 s: run theirs"):
        await asyncio.to_thread(train, store, loses_it)
