"""A store whose writer does nothing for a while, so that what is asked meanwhile waits in line and is done together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentlightning.store.db.database import Transaction


@asynccontextmanager
async def held_up(store: Any) -> AsyncIterator[None]:
    """The store's writer does nothing within it; what is asked meanwhile waits in line."""
    go_on = threading.Event()

    async def hold(_: Transaction) -> None:
        go_on.wait(20)

    holding = asyncio.ensure_future(store._database.write(hold))
    await a_few_turns()
    try:
        yield
    finally:
        go_on.set()
    await holding


async def a_few_turns() -> None:
    """Of the event loop: enough for a call to be in the writer's line, or to hear of its cancellation."""
    for _ in range(5):
        await asyncio.sleep(0)
