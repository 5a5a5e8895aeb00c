"""Callers that go away before their answer is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import Receive


@asynccontextmanager
async def while_there(receive: Receive) -> AsyncGenerator[None]:
    """Break the block off when the caller goes away: nothing need go on for it."""
    asking = asyncio.current_task()
    assert asking is not None
    gone = asyncio.create_task(_disconnected(receive))
    wanted, is_within, is_broken_off = asking.cancelling(), True, False

    def break_off(gone: asyncio.Task[None]) -> None:
        nonlocal is_broken_off
        if is_within and not gone.cancelled():  # it may be called when the block has just ended
            is_broken_off = asking.cancel()

    gone.add_done_callback(break_off)
    try:
        yield
    except asyncio.CancelledError:
        if not is_broken_off or asking.cancelling() > wanted + 1:  # another wants it to end
            raise
    except Exception:
        if not gone.done():  # else nobody hears of it
            raise
    finally:
        is_within = False
        gone.cancel()
        if is_broken_off:
            asking.uncancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
