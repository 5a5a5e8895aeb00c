"""How fast the loop is: 200 rollouts of an agent that does nothing, through `Trainer.fit` with 4 runners.

    python -m benchmarks.trainer [--rollouts 200] [--runners 4]

Each case runs in a fresh process. Writes benchmarks/results/trainer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.types import EnqueueRolloutRequest

RESULTS = Path(__file__).parent / "results/trainer.json"
TRIES = 5
ALONE = 50
"""Rollouts that nothing else runs beside, so that what is measured is the loop and not the queue."""


async def nothing(task: int) -> float:
    """An agent that costs nothing but the loop."""
    return 1.0


def measure(strategy: str, rollouts: int, runners: int) -> dict[str, float]:
    """One run in this process."""
    began = time.time()

    @agl.algo
    async def enqueue_all(store: agl.LightningStore) -> tuple[float, float, list[float]]:
        alone = []
        for n in range(ALONE):
            rollout = await store.enqueue_rollout(n)
            alone += await store.wait_for_rollouts([rollout.rollout_id])
        started = time.time()
        queued = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(rollouts)])
        await store.wait_for_rollouts([rollout.rollout_id for rollout in queued])
        seconds = time.time() - started
        lengths = [each.attempt.end_time - each.attempt.start_time for each in alone]
        return alone[0].attempt.start_time, seconds, lengths

    with tempfile.TemporaryDirectory() as folder:
        trainer = agl.Trainer(
            algorithm=enqueue_all, n_runners=runners, strategy=strategy, run_dir=f"{folder}/run", progress=False
        )
        result = trainer.fit(nothing)
    first_started, seconds, lengths = result.returned
    return {
        "seconds_until_first_rollout_runs": first_started - began,
        "rollouts_per_second": rollouts / seconds,
        "median_milliseconds_of_a_rollout_alone": 1000 * statistics.median(lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--runners", type=int, default=4)
    parser.add_argument("--only", choices=["cs", "shm"], help="one run, printed as JSON")
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.only, asked.rollouts, asked.runners)))
        return
    results: dict[str, Any] = {"cores": os.cpu_count(), "rollouts": asked.rollouts, "runners": asked.runners}
    # In turn, so that whatever else the machine is doing meets both.
    rounds = [{strategy: _in_fresh_process(strategy, asked) for strategy in ("cs", "shm")} for _ in range(TRIES)]
    for strategy in ("cs", "shm"):
        tries = [each[strategy] for each in rounds]
        results[strategy] = {name: round(statistics.median(each[name] for each in tries), 3) for name in tries[0]}
        print(strategy, results[strategy])
    faster = [each["shm"]["rollouts_per_second"] / each["cs"]["rollouts_per_second"] for each in rounds]
    results["shm_is_so_many_times_as_fast"] = round(statistics.median(faster), 2)
    results["load"] = round(os.getloadavg()[0], 1)
    print("shm is", results["shm_is_so_many_times_as_fast"], "times as fast as cs, load", results["load"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _in_fresh_process(strategy: str, asked: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.trainer", "--only", strategy]
    command += ["--rollouts", str(asked.rollouts), "--runners", str(asked.runners)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
