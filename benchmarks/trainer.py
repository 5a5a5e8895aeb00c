"""Overhead of `Trainer.fit`: 200 rollouts of an agent that does nothing, with 4 runners.

    python -m benchmarks.trainer [--rollouts 200] [--runners 4]

Each case runs in a fresh process. Writes benchmarks/results/trainer.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import agentlightning as agl
from agentlightning.types import EnqueueRolloutRequest

from .results import write_result

STRATEGIES = ("cs", "shm")
TRIES = 5
SEQUENTIAL_ROLLOUTS = 50
"""Rollouts that run one at a time, so that their duration is the overhead and not the queue."""


async def do_nothing(task: int) -> float:
    """An agent without any cost of its own."""
    return 1.0


def measure(strategy: str, rollouts: int, runners: int) -> dict[str, float]:
    """Measure one run in this process."""
    started = time.time()

    @agl.algo
    async def enqueue_all(store: agl.LightningStore) -> tuple[float, float, list[float]]:
        finished: list[Any] = []
        for n in range(SEQUENTIAL_ROLLOUTS):
            rollout = await store.enqueue_rollout(n)
            finished += await store.wait_for_rollouts([rollout.rollout_id])
        enqueue_time = time.time()
        queued = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(rollouts)])
        await store.wait_for_rollouts([rollout.rollout_id for rollout in queued])
        seconds = time.time() - enqueue_time
        durations = [each.attempt.end_time - each.attempt.start_time for each in finished]
        return finished[0].attempt.start_time, seconds, durations

    with tempfile.TemporaryDirectory() as folder:
        trainer = agl.Trainer(
            algorithm=enqueue_all, n_runners=runners, strategy=strategy, run_dir=f"{folder}/run", progress=False
        )
        result: Any = trainer.fit(do_nothing)
    first_start, seconds, durations = result.returned
    return {
        "seconds_until_first_rollout_runs": first_start - started,
        "rollouts_per_second": rollouts / seconds,
        "median_milliseconds_of_a_rollout_alone": 1000 * statistics.median(durations),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--runners", type=int, default=4)
    parser.add_argument("--only", choices=STRATEGIES, help="measure one run, and print the result as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.rollouts, arguments.runners)))
        return
    result: dict[str, Any] = {"rollouts": arguments.rollouts, "runners": arguments.runners}
    # Alternating, so that other load on the machine affects both.
    rounds = [{name: _measure_in_fresh_process(name, arguments) for name in STRATEGIES} for _ in range(TRIES)]
    for strategy in STRATEGIES:
        tries = [each[strategy] for each in rounds]
        result[strategy] = {name: round(statistics.median(each[name] for each in tries), 3) for name in tries[0]}
    ratios = [each["shm"]["rollouts_per_second"] / each["cs"]["rollouts_per_second"] for each in rounds]
    result["shm_is_so_many_times_as_fast"] = round(statistics.median(ratios), 2)
    print(json.dumps(result, indent=2))
    write_result("trainer", result)


def _measure_in_fresh_process(strategy: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.trainer", "--only", strategy]
    command += ["--rollouts", str(arguments.rollouts), "--runners", str(arguments.runners)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
