"""A store that takes a great many spans and is killed: how much memory it took, and how soon it is back, with all.

python -m tests.faults.many_spans --spans 1000000
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from agentlightning.store import SqliteLightningStore
from agentlightning.types import Span

from .results import on_record

ROOT = Path(__file__).parents[2]
OF_A_ROLLOUT, BYTES = 10, 2_000


@dataclass
class Recovered:
    """How it went."""

    acknowledged: int = 0
    megabytes: float = 0.0
    """At most, of the store's process."""
    reopened_in_ms: float = 0.0
    """From the opening until the store has answered and handed a rollout out."""
    lost: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} spans of {BYTES} bytes in {self.megabytes:.0f} MB of memory; back "
            f"{self.reopened_in_ms:.0f} ms after kill -9, {len(self.lost)} rollouts lost or incomplete"
        )


async def fill_and_kill(path: Path, spans: int, result: Recovered | None = None) -> Recovered:
    """Kill the store at its `spans`th acknowledgement, or where this is cancelled, and open it again."""
    result = result or Recovered()
    command = sys.executable, "-m", "tests.faults.many_spans", "--fill", str(path)
    filling = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert filling.stdout
    acknowledged: list[str] = []
    try:
        process = psutil.Process(filling.pid)
        while result.acknowledged < spans:
            line = await filling.stdout.readline()
            assert line, "the store ended by itself"
            acknowledged.append(line.decode().strip())
            result.acknowledged += OF_A_ROLLOUT
            if len(acknowledged) % 100 == 0:
                result.megabytes = max(result.megabytes, process.memory_info().rss / 2**20)
    finally:
        filling.kill()
        await filling.communicate()
        await _reopen(path, acknowledged, result)
    return result


async def _reopen(path: Path, acknowledged: list[str], result: Recovered) -> None:
    opening = time.monotonic()
    async with SqliteLightningStore(path) as store:
        await store.statistics()
        assert await store.dequeue_rollout()
        result.reopened_in_ms = (time.monotonic() - opening) * 1000
        looked_at = random.Random(1).sample(acknowledged, min(1_000, len(acknowledged))) + acknowledged[-50:]
        for rollout_id in looked_at:
            if (await store.query_spans(rollout_id, limit=0)).total != OF_A_ROLLOUT:
                result.lost.append(rollout_id)
        if (await store.query_rollouts(limit=0)).total < len(acknowledged):
            result.lost.append("rollouts")


async def fill(path: str) -> None:
    """Rollouts with their spans until killed; says the id of each that is acknowledged as a whole."""
    async with SqliteLightningStore(path) as store:
        await asyncio.gather(*(_keep_filling(store) for _ in range(8)))


async def _keep_filling(store: SqliteLightningStore) -> None:
    text = "x" * BYTES
    while True:
        rollout = await store.enqueue_rollout("task")
        attempted = await store.start_attempt(rollout.rollout_id)
        await store.add_many_spans(
            [
                Span.from_attributes(
                    rollout_id=rollout.rollout_id, attempt_id=attempted.attempt.attempt_id, attributes={"text": text}
                )
                for _ in range(OF_A_ROLLOUT)
            ]
        )
        await store.enqueue_rollout("waits")
        print(rollout.rollout_id, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--fill", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill:
        asyncio.run(fill(given.fill))
    result = Recovered()
    with on_record("many_spans", result), TemporaryDirectory() as folder:
        asyncio.run(fill_and_kill(Path(folder) / "agl.db", given.spans, result))
    raise SystemExit(bool(result.lost))


if __name__ == "__main__":
    main()
