"""A store whose writer is stalled, so that concurrent calls wait in its queue and are then executed together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentlightning.store.db.database import Transaction


@asynccontextmanager
async def stalled_writer(store: Any) -> AsyncIterator[None]:
    """Stall the store's writer until the end of the block."""
    proceed = threading.Event()

    async def stall(_: Transaction) -> None:
        proceed.wait(20)

    stalling = asyncio.ensure_future(store._database.write(stall))
    await run_loop_iterations()
    try:
        yield
    finally:
        proceed.set()
    await stalling


async def run_loop_iterations() -> None:
    """Run the event loop long enough for a call to enter the writer's queue, or to notice its cancellation."""
    for _ in range(5):
        await asyncio.sleep(0)
