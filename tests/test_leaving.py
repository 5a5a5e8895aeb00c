"""An agent leaves in any turn of the event loop: its call is broken off, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentlightning.http.disconnect import while_there

TURNS = range(6)
"""By the last of them the call has been broken off."""


class Agent:
    """One that is there until it leaves, as an ASGI server tells."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def pass_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", TURNS)
async def test_nothing_is_broken_off_once_the_call_has_ended(turns: int) -> None:
    agent = Agent()
    async with while_there(agent.receive):
        await pass_turns(1)
        agent.left.set()
        await pass_turns(turns)
    await pass_turns(len(TURNS))

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("turns", TURNS)
async def test_a_server_that_ends_a_call_as_its_agent_leaves_is_obeyed(turns: int) -> None:
    agent = Agent()

    async def call() -> None:
        async with while_there(agent.receive):
            await asyncio.Event().wait()

    calling = asyncio.create_task(call())
    await pass_turns(2)
    agent.left.set()
    await pass_turns(turns)
    is_under_way = calling.cancel()
    await asyncio.wait([calling])

    assert calling.cancelled() == is_under_way


@pytest.mark.parametrize("turns", TURNS)
async def test_an_agent_that_leaves_a_call_that_its_server_is_ending_changes_nothing(turns: int) -> None:
    agent = Agent()

    async def call() -> None:
        async with while_there(agent.receive):
            try:
                await asyncio.Event().wait()
            finally:
                await pass_turns(turns)

    calling = asyncio.create_task(call())
    await pass_turns(2)
    calling.cancel()
    agent.left.set()
    await asyncio.wait([calling])

    assert calling.cancelled()


async def test_what_breaks_off_within_is_not_taken_for_the_agents_leaving() -> None:
    with pytest.raises(asyncio.CancelledError):
        async with while_there(Agent().receive):
            raise asyncio.CancelledError
