"""Leases: one holder at a time, until release or expiry."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore

from .making import LONG_WAIT


async def test_lease_belongs_to_its_holder_until_released(store: LightningStore) -> None:
    mine = await store.hold_lease("trainer", "a", about={"run": "first"})
    theirs = await store.hold_lease("trainer", "b", about={"run": "second"})
    assert (mine["holder"], theirs["holder"], theirs["about"]) == ("a", "a", {"run": "first"})
    assert (theirs["since"], 10 < theirs["seconds_left"] <= 30) == (mine["since"], True)
    assert (await store.hold_lease("another", "b"))["holder"] == "b"

    await store.hold_lease("trainer", "b", seconds=0)
    assert (await store.hold_lease("trainer", "b"))["holder"] == "a"
    await store.hold_lease("trainer", "a", seconds=0)

    assert (await store.hold_lease("trainer", "b"))["holder"] == "b"


async def test_expired_lease_passes_to_another_holder(store: LightningStore) -> None:
    await store.hold_lease("trainer", "a", seconds=0.2)

    async with asyncio.timeout(LONG_WAIT):
        while (await store.hold_lease("trainer", "b"))["holder"] != "b":
            await store.dequeue_rollout(wait=0.02)

    assert (await store.hold_lease("trainer", "a"))["holder"] == "b"


async def test_renewal_keeps_the_information_of_the_holder(store: LightningStore) -> None:
    first = await store.hold_lease("trainer", "a", seconds=5, about={"pid": 1})

    again = await store.hold_lease("trainer", "a", seconds=60)

    assert (again["about"], again["since"]) == ({"pid": 1}, first["since"])
    assert again["seconds_left"] > 10


async def test_one_of_many_concurrent_callers_acquires_the_lease(store: LightningStore) -> None:
    leases = await asyncio.gather(*(store.hold_lease("trainer", f"{number}") for number in range(20)))

    assert list(Counter(lease["holder"] for lease in leases).values()) == [20]


@pytest.mark.parametrize("wrong", [{"name": ""}, {"holder": "a\n"}, {"seconds": -1.0}, {"seconds": float("nan")}])
async def test_invalid_lease_is_rejected(store: LightningStore, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        await store.hold_lease(**{"name": "trainer", "holder": "a", **wrong})  # pyright: ignore[reportArgumentType]
