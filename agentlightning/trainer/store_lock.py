"""Hold: a trainer's hold on its store. Of two trainers at one store, each would see its tasks done by either's agent.

It is a lease in the store, kept by a thread that no algorithm can hold up. When its holder dies it runs out, and a
trainer on the same machine, which can see that, need not wait for it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from ..errors import StoreInUse, StoreUnavailable
from ..runner.heartbeat import Heartbeat
from ..store import LightningStore
from ..store.contract import Lease
from .stale_attempts import is_alive

T = TypeVar("T")

LEASE: Final = "trainer"
LEASE_SECONDS: Final = 60.0
BEAT_SECONDS: Final = 10.0
RELEASE_SECONDS: Final = 2.0
"""How long letting go may take: a store that is away must not hold up the end of a run."""


_held_here: set[str] = set()
"""Holders in this process."""


class Hold:
    """One trainer's hold on a store. Made with `take`; within `async with` it is kept, and let go of after it."""

    def __init__(self, store: LightningStore, holder: str) -> None:
        self._store = store
        self._holder = holder
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[Lease] = self._loop.create_future()
        self._heartbeat = Heartbeat(self._beat, BEAT_SECONDS, name="trainer-hold")

    @classmethod
    async def take(cls, store: LightningStore, run: str) -> Self:
        """Hold the store for `run`. Raises `StoreInUse` when another trainer does."""
        holder = f"{run[:200]}-{secrets.token_hex(6)}"
        about = {"run": run, "host": socket.gethostname(), "pid": os.getpid()}
        lease = await store.hold_lease(LEASE, holder, LEASE_SECONDS, about)
        if lease["holder"] != holder and _is_dead(lease):
            await store.hold_lease(LEASE, lease["holder"], 0)
            lease = await store.hold_lease(LEASE, holder, LEASE_SECONDS, about)
        if lease["holder"] != holder:
            raise StoreInUse(_in_use(lease))
        return cls(store, holder)

    async def __aenter__(self) -> Self:
        _held_here.add(self._holder)
        self._heartbeat.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heartbeat.stop()
        _held_here.discard(self._holder)
        with suppress(StoreUnavailable, TimeoutError):  # else it runs out
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._store.hold_lease(LEASE, self._holder, 0)

    async def while_held(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns; it is cancelled, and `StoreInUse` raised, when another trainer has taken the store."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({working, self._lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        if self._lost.done() and working.cancelled():
            raise StoreInUse(f"this trainer was not heard of for {LEASE_SECONDS:g} s: {_in_use(self._lost.result())}")
        return working.result()

    async def _beat(self) -> None:
        lease = await self._store.hold_lease(LEASE, self._holder, LEASE_SECONDS)
        if lease["holder"] != self._holder:
            with suppress(RuntimeError):  # the loop is closed: the run has ended
                self._loop.call_soon_threadsafe(self._lose, lease)

    def _lose(self, lease: Lease) -> None:
        if not self._lost.done():
            self._lost.set_result(lease)


def _is_dead(lease: Lease) -> bool:
    about = lease["about"] or {}
    if about.get("host") != socket.gethostname() or lease["holder"] in _held_here:
        return False
    return not is_alive(int(about.get("pid", 0)))


def _in_use(lease: Lease) -> str:
    about = lease["about"] or {}
    seconds = max(0.0, time.time() - lease["seen"])
    return (
        f"run {about.get('run')} of process {about.get('pid')} on {about.get('host')} holds this store, and was heard "
        f"of {seconds:.0f} s ago. Two trainers cannot share one: give this one a store of "
        f"its own, or wait until that run has ended (if it was killed, {lease['seconds_left']:.0f} s)"
    )
