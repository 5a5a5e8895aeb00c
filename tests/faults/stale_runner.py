"""A runner that is suspended (SIGSTOP) beyond its lease: others finish its work, and after SIGCONT it changes nothing.

    python -m tests.faults.stale_runner --schedules 1000

Each rollout is one schedule; the seed chooses the first report of the resumed runner, and the rollout's state by then.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlightning.errors import Conflict
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptRef, EnqueueRolloutRequest, RolloutConfig, Span

from .long_run import run_from_command_line

ROOT = Path(__file__).parents[2]
BATCH_SIZE = 20
SHORT_LEASE = RolloutConfig(unresponsive_seconds=0.5, max_attempts=2, retry_condition=["unresponsive"])
LONG_LEASE = RolloutConfig(unresponsive_seconds=600)
REPORTS = ("report", "span, report", "heartbeat, report", "report of failure")


@dataclass
class StaleRunnerResult:
    """Counts of the schedules, and stale reports that had an effect."""

    schedules: int = 0
    refused: int = 0
    effective: list[str] = field(default_factory=list[str])

    @property
    def problems(self) -> list[str]:
        return self.effective

    def __str__(self) -> str:
        return f"{self.schedules} stale runners: {self.refused} reports refused, {len(self.effective)} effective"


async def stop_runners_repeatedly(
    schedules: int, *, seed: int = 1, result: StaleRunnerResult | None = None
) -> StaleRunnerResult:
    """Run the schedules in batches."""
    result, rng = result or StaleRunnerResult(), random.Random(seed)
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    try:
        while result.schedules < schedules:
            await _run_batch(server, min(BATCH_SIZE, schedules - result.schedules), rng, result)
    finally:
        await server.close()
    return result


async def _run_batch(server: LightningStoreServer, count: int, rng: random.Random, result: StaleRunnerResult) -> None:
    requests = [EnqueueRolloutRequest(input=rng.choice(REPORTS), config=SHORT_LEASE) for _ in range(count)]
    await server.enqueue_many_rollouts(requests)
    command = sys.executable, "-m", "tests.faults.stale_runner", "runner", server.endpoint, str(count)
    runner = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert runner.stdin and runner.stdout  # noqa: PT018
    try:
        assert (await runner.stdout.readline()).strip() == b"claimed"
        runner.send_signal(signal.SIGSTOP)
        finished = await _finish_others_work(server, count, rng)
        before = await _states(server, finished)
        runner.stdin.write(b"resume\n")
        runner.send_signal(signal.SIGCONT)
        result.refused += int(await runner.stdout.readline())
        after = await _states(server, finished)
    finally:
        if runner.returncode is None:
            runner.kill()
        await runner.communicate()
    result.schedules += count
    result.effective += [
        f"{each}: {before[each]} became {after[each]}" for each in finished if before[each] != after[each]
    ]


async def _finish_others_work(server: LightningStoreServer, count: int, rng: random.Random) -> list[str]:
    """Claim the rollouts with expired leases; let some succeed, some fail, cancel some, and leave some running."""
    while (await server.statistics())["queue_depth"] < count:  # noqa: ASYNC110 (depends on the store's clock)
        await asyncio.sleep(0.02)
    for rollout in await server.query_rollouts(status_in=["requeuing"]):
        await server.update_rollout(rollout.rollout_id, config=LONG_LEASE)
    finished: list[str] = []
    while len(finished) < count:
        attempted = await server.dequeue_rollout(worker_id="quick")
        assert attempted is not None
        match rng.choice(("succeeded", "failed", "cancelled", "live")):
            case "cancelled":
                await server.update_rollout(attempted.rollout_id, status="cancelled")
            case "succeeded" | "failed" as status:
                await server.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
            case _:
                pass
        finished.append(attempted.rollout_id)
    return finished


async def _states(server: LightningStoreServer, rollout_ids: list[str]) -> dict[str, Any]:
    """Return everything that a stale report could change."""
    states: dict[str, Any] = {}
    for rollout_id in rollout_ids:
        rollout: Any = await server.get_rollout_by_id(rollout_id)
        attempts = await server.query_attempts(rollout_id)
        states[rollout_id] = (rollout.status, rollout.attempt.attempt_id, *(attempt.status for attempt in attempts))
    return states


async def run_runner(url: str, count: int) -> None:
    """Run the runner that is stopped: claim, wait for a line on stdin, report."""
    refused = 0
    async with LightningStoreClient(url) as store:
        claimed = await store.dequeue_many_rollouts(limit=count, worker_id="stale")
        assert len(claimed) == count
        print("claimed", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for rollout in claimed:
            refused += await _report(store, rollout)
    print(refused, flush=True)


async def _report(store: LightningStore, rollout: Any) -> bool:
    """Return True if the report was rejected."""
    rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
    if "span" in rollout.input:
        await store.add_span(
            Span(rollout_id=rollout_id, attempt_id=attempt_id, trace_id="a" * 32, span_id="b" * 16, name="late")
        )
    if "heartbeat" in rollout.input:
        worker = await store.update_worker("stale", attempts=[AttemptRef(rollout_id=rollout_id, attempt_id=attempt_id)])
        assert worker.stale_attempts
    try:
        await store.update_attempt(
            rollout_id, attempt_id, status="failed" if "failure" in rollout.input else "succeeded"
        )
    except Conflict:
        return True
    return False


def main() -> None:
    result = StaleRunnerResult()
    run_from_command_line(
        "stale_runner",
        __doc__,
        result,
        lambda given, _: asyncio.run(stop_runners_repeatedly(given.schedules, seed=given.seed, result=result)),
        schedules=1_000,
        seed=1,
    )


if __name__ == "__main__":
    asyncio.run(run_runner(sys.argv[2], int(sys.argv[3]))) if sys.argv[1:2] == ["runner"] else main()
