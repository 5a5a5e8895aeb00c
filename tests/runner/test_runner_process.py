"""A runner in its own process, as in the tutorial: signals, `kill -9`, and a restarted store."""

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
from tests.processes import TIMEOUT

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
    """The script above in a child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def wait_for_line(self, pattern: str) -> str:
        """Wait for a line that matches `pattern`."""
        assert self.process.stdout
        async with asyncio.timeout(TIMEOUT):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if re.search(pattern, line):
                    return self.lines[-1]
        raise AssertionError(f"it ended without printing {pattern}: {self.lines}")

    async def exit_code(self) -> int:
        """Wait for the exit, and return its code."""
        return await asyncio.wait_for(self.process.wait(), TIMEOUT)


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


async def test_runner_prints_what_the_tutorial_shows_and_exits_on_sigterm(
    served: agl.LightningStoreServer, runner: RunnerProcess
):
    rollout = await enqueue(served, "Why is the sky blue?")

    ended: Any = (await served.wait_for_rollouts([rollout.rollout_id]))[0]
    await runner.wait_for_line("Completed")

    assert ended.status == "succeeded"
    lines = [re.sub(r"^\S+ \S+ \[INFO\] \S+ ", "[INFO] ", line) for line in runner.lines]
    assert lines[:4] == [
        "[INFO] [Worker 0] Setting up tracer...",
        "[INFO] [Worker 0] Instrumentation applied.",
        "[INFO] [Worker 0] Started async rollouts (max: unlimited).",
        "[Rollout] You are helpful. Why is the sky blue?",
    ]
    prefix = re.escape(f"[INFO] [Worker 0 | Rollout {rollout.rollout_id}]")
    assert re.fullmatch(prefix + r" Completed in \d+\.\d\ds\. 1 span, final reward 0\.95\.", lines[4])

    runner.process.send_signal(signal.SIGTERM)

    assert await runner.exit_code() == 0
    rollout = await enqueue(served, "after")
    assert (await served.get_rollout_by_id(rollout.rollout_id)).status == "queuing"


async def test_ctrl_c_ends_an_idle_runner(served: agl.LightningStoreServer, runner: RunnerProcess):
    await runner.wait_for_line("Started")

    runner.process.send_signal(signal.SIGINT)

    assert await runner.exit_code() == -signal.SIGINT


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_a_runner_whose_agent_hangs_in_a_thread(
    served: agl.LightningStoreServer, runner: RunnerProcess, stop: signal.Signals
):
    rollout = await enqueue(served, "hang")
    await runner.wait_for_line(r"^\[Rollout\]")

    runner.process.send_signal(stop)

    await runner.exit_code()
    ended: Any = (await served.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.status == "failed"
    assert re.match("its runner was (stopped: SIGTERM|cancelled)", ended.attempt.metadata["reason"])


async def test_rollout_of_a_killed_runner_is_given_to_another(served: agl.LightningStoreServer, runner: RunnerProcess):
    rollout = await enqueue(served, "hang", unresponsive_seconds=1, max_attempts=2, retry_condition=["unresponsive"])
    await runner.wait_for_line(r"^\[Rollout\]")

    os.kill(runner.process.pid, signal.SIGKILL)

    second = agl.LitAgentRunner[str](agl.OtelTracer(), max_rollouts=1)
    with second.run_context(agent=lambda task: 0.5, store=served):
        await asyncio.wait_for(second.iter(), TIMEOUT)
    ended: Any = (await served.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.status == "succeeded"
    assert [each.status for each in await served.query_attempts(rollout.rollout_id)] == ["unresponsive", "succeeded"]


async def test_runner_continues_after_a_restart_of_its_store(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "agl.db"
    first = agl.LightningStoreServer(agl.SqliteLightningStore(path), port=0)
    await first.start()
    started, release = asyncio.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        await release.wait()
        return 0.5

    rollout = await first.enqueue_rollout("task")
    runner = agl.LitAgentRunner[str](agl.OtelTracer(), max_rollouts=1, heartbeat_interval=0.1)
    async with agl.LightningStoreClient(first.endpoint) as client:
        with runner.run_context(agent=agent, store=client):
            running = asyncio.create_task(runner.iter())
            await started.wait()
            await first.close()
            release.set()

            second = agl.LightningStoreServer(agl.SqliteLightningStore(path), port=first.port)
            await second.start()
            await asyncio.wait_for(running, TIMEOUT)

    [ended] = await second.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    assert agl.find_final_reward(list(await second.query_spans(rollout.rollout_id))) == 0.5
    await second.close()
