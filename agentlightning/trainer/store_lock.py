"""StoreLock: prevents two trainers from sharing a store, because their runners would run each other's tasks.

The lock is a lease in the store. It is renewed in a separate thread, which the algorithm cannot block. If the process
that holds the lock dies, the lease expires `LEASE_SECONDS` after its last renewal. A new trainer on the same machine
detects that the process is dead, and acquires the lock without waiting for the lease to expire.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from ..concurrency import heartbeat
from ..errors import StoreInUse, StoreUnavailable
from ..processes import is_process_alive
from ..store import LightningStore
from ..store.contract import Lease

T = TypeVar("T")

LEASE: Final = "trainer"
LEASE_SECONDS: Final = 60.0
RENEWAL_INTERVAL: Final = 10.0
RELEASE_TIMEOUT: Final = 2.0
"""Timeout in seconds for releasing the lock, so that an unreachable store cannot delay the end of a run for long."""

_local_holders: set[str] = set()
"""The `holder` values of all locks that this process currently holds."""


@dataclass
class StoreLock:
    """A trainer's exclusive lock on its store. `acquire` obtains the lock; `run_while_held` renews and releases it."""

    store: LightningStore
    holder: str
    _lost: asyncio.Future[Lease] = field(default_factory=asyncio.Future[Lease])

    @classmethod
    async def acquire(cls, store: LightningStore, run: str) -> Self:
        """Acquire the lock for `run`. Raises `StoreInUse` if another trainer holds the lock."""
        holder = f"{run[:200]}-{secrets.token_hex(6)}"
        about = {"run": run, "host": socket.gethostname(), "pid": os.getpid()}
        lease = await store.hold_lease(LEASE, holder, LEASE_SECONDS, about)
        if lease["holder"] != holder and _is_dead(lease):
            await store.hold_lease(LEASE, lease["holder"], 0)
            lease = await store.hold_lease(LEASE, holder, LEASE_SECONDS, about)
        if lease["holder"] != holder:
            raise StoreInUse(_in_use(lease))
        return cls(store, holder)

    async def run_while_held(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result. If another trainer takes the lock, cancel `work` and raise `StoreInUse`."""
        working = asyncio.ensure_future(work)
        async with self._renewed():
            try:
                await asyncio.wait({working, self._lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not working.done():
                    working.cancel()
                    await asyncio.wait({working})
        if self._lost.done() and working.cancelled():
            raise StoreInUse(
                f"this trainer did not renew its lock for {LEASE_SECONDS:g} s: {_in_use(self._lost.result())}"
            )
        return working.result()

    @asynccontextmanager
    async def _renewed(self) -> AsyncGenerator[None]:
        _local_holders.add(self.holder)
        try:
            with heartbeat(self._renew, RENEWAL_INTERVAL, name="agl-store-lock", has_changes=lambda: False):
                yield
        finally:
            _local_holders.discard(self.holder)
            with suppress(StoreUnavailable, TimeoutError):  # if the lock is not released, its lease expires
                async with asyncio.timeout(RELEASE_TIMEOUT):
                    await self.store.hold_lease(LEASE, self.holder, 0)

    async def _renew(self) -> None:
        lease = await self.store.hold_lease(LEASE, self.holder, LEASE_SECONDS)
        if lease["holder"] != self.holder:
            with suppress(RuntimeError):  # the event loop is closed because the run has ended
                self._lost.get_loop().call_soon_threadsafe(self._set_lost, lease)

    def _set_lost(self, lease: Lease) -> None:
        if not self._lost.done():
            self._lost.set_result(lease)


def _is_dead(lease: Lease) -> bool:
    about = lease["about"] or {}
    if about.get("host") != socket.gethostname() or lease["holder"] in _local_holders:
        return False
    return not is_process_alive(int(about.get("pid", 0)))


def _in_use(lease: Lease) -> str:
    about = lease["about"] or {}
    age = max(0.0, time.time() - lease["seen"])
    return (
        f"the store is already in use by run {about.get('run')}, process {about.get('pid')} on {about.get('host')}, "
        f"last seen {age:.0f} s ago. Two trainers cannot share a store: use another store, or wait "
        f"until that run has ended (if it was killed, for {lease['seconds_left']:.0f} s)"
    )
