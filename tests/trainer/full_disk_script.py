"""A run whose folder is on a disk that the test fills while the first rollout runs."""

import logging
import sys
import time
from pathlib import Path

import agentlightning as agl

agl.setup_logging("WARNING")
logger = logging.getLogger("agentlightning.agent")
strategy, folder = sys.argv[1], Path(sys.argv[2])


def agent(task: int) -> float:
    print(f"[Rollout] {task}", flush=True)
    while not (folder / "filled").exists():
        time.sleep(0.01)
    logger.info("more than fits into the last page of log.txt: %s", "x" * 5_000)
    agl.emit_object({"text": "x" * 10_000})
    return task / 10


strategies = {"cs": agl.ClientServerExecutionStrategy, "shm": agl.SharedMemoryExecutionStrategy}
trainer = agl.Trainer(strategy=strategies[strategy](graceful_timeout=1), run_dir=folder / "run", progress=False)
result = trainer.fit(agent, list(range(10)))
print("[Result]", result.status, sorted(result.counts.items()), flush=True)
