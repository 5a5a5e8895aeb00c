"""A store with very many spans that is killed: its memory, and the time until it is available again with all of them.

python -m tests.faults.many_spans --spans 1000000
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.types import Span

from .long_run import run_from_command_line

ROOT = Path(__file__).parents[2]
SPANS_PER_ROLLOUT, SPAN_BYTES = 10, 2_000


@dataclass
class ManySpansResult:
    """Counts, memory and times."""

    acknowledged: int = 0
    megabytes: float = 0.0
    """The largest memory of the store's process."""
    reopened_in_ms: float = 0.0
    """The time from opening the store until it has answered and handed out a rollout."""
    lost: list[str] = field(default_factory=list[str])

    @property
    def problems(self) -> list[str]:
        return self.lost

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} spans of {SPAN_BYTES} bytes in {self.megabytes:.0f} MB of memory; reopened "
            f"{self.reopened_in_ms:.0f} ms after kill -9, {len(self.lost)} rollouts lost or incomplete"
        )


async def fill_and_kill(path: Path, spans: int, result: ManySpansResult | None = None) -> ManySpansResult:
    """Kill the store after `spans` acknowledged spans, or when this task is cancelled, and open it again."""
    result = result or ManySpansResult()
    command = sys.executable, "-m", "tests.faults.many_spans", "fill", str(path)
    filling = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert filling.stdout
    acknowledged: list[str] = []
    try:
        process = psutil.Process(filling.pid)
        while result.acknowledged < spans:
            line = await filling.stdout.readline()
            assert line, "the store's process ended early"
            acknowledged.append(line.decode().strip())
            result.acknowledged += SPANS_PER_ROLLOUT
            if len(acknowledged) % 100 == 0:
                result.megabytes = max(result.megabytes, process.memory_info().rss / 2**20)
    finally:
        filling.kill()
        await filling.communicate()
        await _reopen(path, acknowledged, result)
    return result


async def _reopen(path: Path, acknowledged: list[str], result: ManySpansResult) -> None:
    started = time.monotonic()
    async with SqliteLightningStore(path) as store:
        await store.statistics()
        assert await store.dequeue_rollout()
        result.reopened_in_ms = (time.monotonic() - started) * 1000
        sample = random.Random(1).sample(acknowledged, min(1_000, len(acknowledged))) + acknowledged[-50:]
        for rollout_id in sample:
            if (await store.query_spans(rollout_id, limit=0)).total != SPANS_PER_ROLLOUT:
                result.lost.append(rollout_id)
        if (await store.query_rollouts(limit=0)).total < len(acknowledged):
            result.lost.append("rollouts")


async def fill(path: str) -> None:
    """Add rollouts with spans until killed; print the id of each rollout that is completely acknowledged."""
    async with SqliteLightningStore(path) as store:
        await asyncio.gather(*(_add_rollouts(store) for _ in range(8)))


async def _add_rollouts(store: LightningStore) -> None:
    text = "x" * SPAN_BYTES
    while True:
        rollout = await store.enqueue_rollout("task")
        attempted = await store.start_attempt(rollout.rollout_id)
        await store.add_many_spans(
            [
                Span.from_attributes(
                    rollout_id=rollout.rollout_id, attempt_id=attempted.attempt.attempt_id, attributes={"text": text}
                )
                for _ in range(SPANS_PER_ROLLOUT)
            ]
        )
        await store.enqueue_rollout("waits")
        print(rollout.rollout_id, flush=True)


def main() -> None:
    result = ManySpansResult()
    run_from_command_line(
        "many_spans",
        __doc__,
        result,
        lambda given, folder: asyncio.run(fill_and_kill(folder / "agl.db", given.spans, result)),
        spans=1_000_000,
    )


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[2])) if sys.argv[1:2] == ["fill"] else main()
