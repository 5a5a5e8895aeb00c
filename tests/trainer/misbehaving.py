"""An agent that fails in a different way for each task of one run."""

import sys
import time
from typing import Any

import agentlightning as agl

FAILURES = ["raises", "exits", "returns nonsense", "hangs", "blocks the event loop", "behaves"]
STRATEGIES = {
    "fork": agl.ClientServerExecutionStrategy(start_method="fork", graceful_timeout=1),
    "shm": agl.SharedMemoryExecutionStrategy(graceful_timeout=1),
}


@agl.algo
async def try_each_failure(store: agl.LightningStore) -> None:
    for failure in FAILURES:
        config = agl.RolloutConfig(timeout_seconds=0.5 if failure in ("hangs", "blocks the event loop") else 60)
        rollout = await store.enqueue_rollout(failure, config=config)
        ended: Any = (await store.wait_for_rollouts([rollout.rollout_id]))[0]
        print(f"[Algo] {failure}: {ended.status} {(ended.attempt.metadata or {}).get('reason')}", flush=True)


def agent(failure):
    match failure:
        case "raises":
            raise KeyError("no such \ud800 tool")
        case "exits":
            sys.exit("I give up")
        case "returns nonsense":
            return {"a": object()}
        case "hangs":
            return time.sleep(60)
        case "blocks the event loop":
            return block_the_event_loop()
        case _:
            return 1.0


async def block_the_event_loop() -> float:
    time.sleep(60)  # noqa: ASYNC251 - the failure to test
    return 1.0


trainer = agl.Trainer(
    algorithm=try_each_failure,
    n_runners=2,
    strategy=STRATEGIES[sys.argv[1]],
    runner=lambda: agl.LitAgentRunner(agl.OtelTracer(), drain_seconds=0.2),
)
result = trainer.fit(agent)
print("[Result]", result.status, sorted(result.counts.items()), flush=True)
