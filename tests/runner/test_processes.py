"""A runner as a process of its own, as the tutorial starts it: signals, sudden death, a store that comes late."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from tests.processes import PATIENCE

SCRIPT = """
import asyncio, sys, time
import agentlightning as agl
from agentlightning import LitAgentRunner, OtelTracer

agl.setup_logging()

def simple_agent(task: str, prompt_template: agl.PromptTemplate) -> float:
    print("[Rollout]", prompt_template.format(any_question=task), flush=True)
    if task == "hang":
        time.sleep(60)
    return 0.95

async def main():
    store = agl.LightningStoreClient(sys.argv[1])
    runner = LitAgentRunner[str](tracer=OtelTracer(), drain_seconds=0.2)
    with runner.run_context(agent=simple_agent, store=store):
        await runner.iter()

asyncio.run(main())
"""


class RunnerProcess:
    """The script above, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def says(self, pattern: str) -> str:
        """Wait for a line with this in it."""
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if re.search(pattern, line):
                    return self.lines[-1]
        raise AssertionError(f"it ended without saying {pattern}: {self.lines}")

    async def ended(self) -> int:
        """Its exit code, soon."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[agl.LightningStoreServer]:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def runner(served: agl.LightningStoreServer, tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    script = tmp_path / "runner.py"
    script.write_text(SCRIPT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), served.endpoint, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    yield RunnerProcess(process)
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def enqueue(store: Any, task: str, **config: Any) -> agl.Rollout:
    await store.add_resources({"prompt_template": "You are helpful. {any_question}"})
    return await store.enqueue_rollout(task, config=agl.RolloutConfig(**config))


async def test_it_says_what_the_tutorial_shows(served: agl.LightningStoreServer, runner: RunnerProcess):
    rollout = await enqueue(served, "Why is the sky blue?")

    [ended] = await served.wait_for_rollouts([rollout.rollout_id])
    await runner.says("Completed")

    assert ended.status == "succeeded"
    said = [re.sub(r"^\S+ \S+ \[INFO\] \S+ ", "[INFO] ", line) for line in runner.lines]
    assert said[:4] == [
        "[INFO] [Worker 0] Setting up tracer...",
        "[INFO] [Worker 0] Instrumentation applied.",
        "[INFO] [Worker 0] Started async rollouts (max: unlimited).",
        "[Rollout] You are helpful. Why is the sky blue?",
    ]
    about_it = re.escape(f"[INFO] [Worker 0 | Rollout {rollout.rollout_id}]")
    assert re.fullmatch(about_it + r" Completed in \d+\.\d\ds\. 1 span, final reward 0\.95\.", said[4])


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)])
async def test_a_signal_ends_an_idle_runner(
    served: agl.LightningStoreServer, runner: RunnerProcess, stop: signal.Signals, code: int
):
    await runner.says("Started")

    runner.process.send_signal(stop)

    assert await runner.ended() == code
    rollout = await enqueue(served, "after")
    assert (await served.get_rollout_by_id(rollout.rollout_id)).status == "queuing"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_runner_whose_agent_hangs_in_a_thread(
    served: agl.LightningStoreServer, runner: RunnerProcess, stop: signal.Signals
):
    rollout = await enqueue(served, "hang")
    await runner.says(r"^\[Rollout\]")

    runner.process.send_signal(stop)

    await runner.ended()
    [ended] = await served.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "failed"
    assert re.match("its runner was (stopped: SIGTERM|cancelled)", ended.attempt.metadata["reason"])


async def test_a_killed_runner_is_noticed_and_its_rollout_given_to_another(
    served: agl.LightningStoreServer, runner: RunnerProcess
):
    rollout = await enqueue(served, "hang", unresponsive_seconds=2, max_attempts=2, retry_condition=["unresponsive"])
    await runner.says(r"^\[Rollout\]")

    os.kill(runner.process.pid, signal.SIGKILL)

    second = agl.LitAgentRunner[str](agl.OtelTracer(), max_rollouts=1)
    with second.run_context(agent=lambda task: 0.5, store=served):
        await asyncio.wait_for(second.iter(), PATIENCE)
    [ended] = await served.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    assert [each.status for each in await served.query_attempts(rollout.rollout_id)] == ["unresponsive", "succeeded"]


async def test_a_runner_goes_on_when_its_store_was_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "agl.db"
    first = agl.LightningStoreServer(agl.SqliteLightningStore(path), port=0)
    await first.start()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await go_on.wait()
        return 0.5

    rollout = await first.enqueue_rollout("task")
    runner = agl.LitAgentRunner[str](agl.OtelTracer(), max_rollouts=1, heartbeat_interval=0.1)
    async with agl.LightningStoreClient(first.endpoint) as client:
        with runner.run_context(agent=agent, store=client):
            running = asyncio.create_task(runner.iter())
            await begun.wait()
            await first.close()
            go_on.set()

            second = agl.LightningStoreServer(agl.SqliteLightningStore(path), port=first.port)
            await second.start()
            await asyncio.wait_for(running, PATIENCE)

    [ended] = await second.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    assert agl.find_final_reward(list(await second.query_spans(rollout.rollout_id))) == 0.5
    await second.close()
