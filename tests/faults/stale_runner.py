"""A runner stopped (SIGSTOP) past its leases: others finish its work, it goes on (SIGCONT), and changes nothing.

    python -m tests.faults.stale_runner --schedules 1000

Each rollout is a schedule of its own: what the stopped runner says first when it goes on, and what came of the rollout
meanwhile, is decided by the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlightning.errors import Conflict
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptRef, EnqueueRolloutRequest, RolloutConfig, Span

from .results import on_record

ROOT = Path(__file__).parents[2]
AT_ONCE = 20
LEASE = RolloutConfig(unresponsive_seconds=0.5, max_attempts=2, retry_condition=["unresponsive"])
PATIENT = RolloutConfig(unresponsive_seconds=600)
WAYS = ("report", "span, report", "heartbeat, report", "report of failure")


@dataclass
class Stale:
    """What came of some schedules."""

    schedules: int = 0
    refused: int = 0
    effective: list[str] = field(default_factory=list[str])
    """Stale reports that changed something."""

    def __str__(self) -> str:
        return f"{self.schedules} stale runners: {self.refused} reports refused, {len(self.effective)} effective"


async def stop_again_and_again(schedules: int, *, seed: int = 1, result: Stale | None = None) -> Stale:
    """So many schedules, some at once."""
    result, chance = result or Stale(), random.Random(seed)
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    try:
        while result.schedules < schedules:
            await _some(server, min(AT_ONCE, schedules - result.schedules), chance, result)
    finally:
        await server.close()
    return result


async def _some(server: LightningStoreServer, many: int, chance: random.Random, result: Stale) -> None:
    requests = [EnqueueRolloutRequest(input=chance.choice(WAYS), config=LEASE) for _ in range(many)]
    await server.enqueue_many_rollouts(requests)
    command = sys.executable, "-m", "tests.faults.stale_runner", "--runner", server.endpoint, str(many)
    runner = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert runner.stdin and runner.stdout  # noqa: PT018
    try:
        assert (await runner.stdout.readline()).strip() == b"claimed"
        runner.send_signal(signal.SIGSTOP)
        finished = await _finish_for_it(server, many, chance)
        before = await _state(server, finished)
        runner.stdin.write(b"go on\n")
        runner.send_signal(signal.SIGCONT)
        result.refused += int(await runner.stdout.readline())
        after = await _state(server, finished)
    finally:
        if runner.returncode is None:
            runner.kill()
        await runner.communicate()
    result.schedules += many
    result.effective += [
        f"{each}: {before[each]} became {after[each]}" for each in finished if before[each] != after[each]
    ]


async def _finish_for_it(server: LightningStoreServer, many: int, chance: random.Random) -> list[str]:
    """Take over what its leases have lost; some of it succeeds, some fails, some is cancelled."""
    while (await server.statistics())["queue_depth"] < many:  # noqa: ASYNC110 (the store's clock is waited for)
        await asyncio.sleep(0.02)
    for rollout in await server.query_rollouts(status_in=["requeuing"]):
        await server.update_rollout(rollout.rollout_id, config=PATIENT)
    finished: list[str] = []
    while len(finished) < many:
        attempted = await server.dequeue_rollout(worker_id="quick")
        assert attempted is not None
        match chance.choice(("succeeded", "failed", "cancelled", "live")):
            case "cancelled":
                await server.update_rollout(attempted.rollout_id, status="cancelled")
            case "live":
                pass
            case status:
                await server.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
        finished.append(attempted.rollout_id)
    return finished


async def _state(server: LightningStoreServer, rollout_ids: list[str]) -> dict[str, Any]:
    """All that a stale report could change."""
    state: dict[str, Any] = {}
    for rollout_id in rollout_ids:
        rollout: Any = await server.get_rollout_by_id(rollout_id)
        attempts = await server.query_attempts(rollout_id)
        state[rollout_id] = (rollout.status, rollout.attempt.attempt_id, *(attempt.status for attempt in attempts))
    return state


async def run_runner(url: str, many: int) -> None:
    """The runner that is stopped: claims, waits to be told to go on, reports."""
    refused = 0
    async with LightningStoreClient(url) as store:
        claimed = await store.dequeue_many_rollouts(limit=many, worker_id="stale")
        assert len(claimed) == many
        print("claimed", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for rollout in claimed:
            refused += await _report(store, rollout)
    print(refused, flush=True)


async def _report(store: LightningStoreClient, rollout: Any) -> bool:
    """True when the report was refused."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runner", nargs=2, metavar=("URL", "MANY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.runner:
        asyncio.run(run_runner(arguments.runner[0], int(arguments.runner[1])))
        return
    result = Stale()
    with on_record("stale_runner", result, seed=arguments.seed):
        asyncio.run(stop_again_and_again(arguments.schedules, seed=arguments.seed, result=result))
    raise SystemExit(bool(result.effective))


if __name__ == "__main__":
    main()
