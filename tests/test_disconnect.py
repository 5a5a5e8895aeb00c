"""`cancel_on_disconnect`: a client that disconnects in any iteration of the event loop cancels its request only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentlightning.http.limits import cancel_on_disconnect

ITERATIONS = range(6)
"""After the last of them the request has been cancelled."""


class DisconnectingClient:
    """The `receive` of an ASGI server, for a client that disconnects when told."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.disconnected.wait()
        return {"type": "http.disconnect"}


async def run_loop_iterations(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("iterations", ITERATIONS)
async def test_disconnect_at_the_end_of_the_block_cancels_nothing_after_it(iterations: int) -> None:
    client = DisconnectingClient()
    async with cancel_on_disconnect(client.receive):
        await run_loop_iterations(1)
        client.disconnected.set()
        await run_loop_iterations(iterations)
    await run_loop_iterations(len(ITERATIONS))

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("iterations", ITERATIONS)
async def test_server_cancellation_after_a_disconnect_takes_effect(iterations: int) -> None:
    client = DisconnectingClient()

    async def handle() -> None:
        async with cancel_on_disconnect(client.receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await run_loop_iterations(2)
    client.disconnected.set()
    await run_loop_iterations(iterations)
    was_running = task.cancel()
    await asyncio.wait([task])

    assert task.cancelled() == was_running


@pytest.mark.parametrize("iterations", ITERATIONS)
async def test_disconnect_during_a_server_cancellation_changes_nothing(iterations: int) -> None:
    client = DisconnectingClient()

    async def handle() -> None:
        async with cancel_on_disconnect(client.receive):
            try:
                await asyncio.Event().wait()
            finally:
                await run_loop_iterations(iterations)

    task = asyncio.create_task(handle())
    await run_loop_iterations(2)
    task.cancel()
    client.disconnected.set()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_cancellation_inside_the_block_passes_through() -> None:
    with pytest.raises(asyncio.CancelledError):
        async with cancel_on_disconnect(DisconnectingClient().receive):
            raise asyncio.CancelledError
