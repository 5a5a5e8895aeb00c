"""An agent at its worst, again and again in one run: each task says how it is to misbehave."""

import sys
import time

import agentlightning as agl

WAYS = ["raises", "exits", "talks nonsense", "hangs", "blocks the event loop", "behaves"]
STRATEGIES = {
    "fork": agl.ClientServerExecutionStrategy(start_method="fork", graceful_timeout=1),
    "shm": agl.SharedMemoryExecutionStrategy(graceful_timeout=1),
}


@agl.algo
async def try_each_way(store: agl.LightningStore) -> None:
    for way in WAYS:
        config = agl.RolloutConfig(timeout_seconds=0.5 if way in ("hangs", "blocks the event loop") else 60)
        rollout = await store.enqueue_rollout(way, config=config)
        (ended,) = await store.wait_for_rollouts([rollout.rollout_id])
        print(f"[Algo] {way}: {ended.status} {(ended.attempt.metadata or {}).get('reason')}", flush=True)


def agent(way):
    match way:
        case "raises":
            raise KeyError("no such \ud800 tool")
        case "exits":
            sys.exit("I give up")
        case "talks nonsense":
            return {"a": object()}
        case "hangs":
            return time.sleep(60)
        case "blocks the event loop":
            return block_the_event_loop()
        case _:
            return 1.0


async def block_the_event_loop() -> float:
    time.sleep(60)  # noqa: ASYNC251 - that is the point
    return 1.0


trainer = agl.Trainer(
    algorithm=try_each_way,
    n_runners=2,
    strategy=STRATEGIES[sys.argv[1]],
    runner=lambda: agl.LitAgentRunner(agl.OtelTracer(), drain_seconds=0.2),
)
result = trainer.fit(agent)
print("[Result]", result.status, sorted(result.counts.items()), flush=True)
