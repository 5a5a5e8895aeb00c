"""Cancellation of requests whose client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import Receive


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the block when the client disconnects, and continue after the block.

    Any other cancellation of the task passes through. An error that the block raises because of the cancellation is
    dropped: there is no client to report it to.
    """
    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(_wait_for_disconnect(receive))
    earlier_requests, is_inside, is_cancelled = task.cancelling(), True, False

    def cancel(watcher: asyncio.Task[None]) -> None:
        nonlocal is_cancelled
        if is_inside and not watcher.cancelled():  # the callback may run just after the end of the block
            is_cancelled = task.cancel()

    watcher.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not is_cancelled or task.cancelling() > earlier_requests + 1:  # another caller cancels the task
            raise
    except Exception:
        if not watcher.done():
            raise
    finally:
        is_inside = False
        watcher.cancel()
        if is_cancelled:
            task.uncancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
