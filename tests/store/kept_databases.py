"""Databases of released schemas, kept in `data/` as compressed files with their contents as JSON.

`python -m tests.store.kept_databases` writes the files of the current schema: run it once after a step was added to
`STEPS`, and commit them. Files of older schemas stay as they are.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import tempfile
from pathlib import Path
from typing import Any

import apsw
import orjson

from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.sql import schema
from agentlightning.types import LLM, EnqueueRolloutRequest, PromptTemplate, RolloutConfig

from ..contract.making import everything, span

DATA = Path(__file__).parent / "data"
LONG_LEASE = RolloutConfig(unresponsive_seconds=3_600, max_attempts=2, retry_condition=["failed"])


def kept_versions() -> list[int]:
    """Return the schema versions that have a file, oldest first."""
    return sorted(int(path.name.split(".")[0].removeprefix("schema-")) for path in DATA.glob("schema-*.db.gz"))


def unpack(version: int, path: Path) -> Any:
    """Write the database of a schema version to `path` and return its contents."""
    path.write_bytes(gzip.decompress((DATA / f"schema-{version}.db.gz").read_bytes()))
    return orjson.loads((DATA / f"schema-{version}.json").read_bytes())


async def contents(store: LightningStore) -> Any:
    """Return everything in the store, as JSON values."""
    return orjson.loads(orjson.dumps(await everything(store), default=lambda model: model.model_dump()))


async def fill(store: LightningStore) -> None:
    """Store something of every kind, in every status."""
    prompt = await store.add_resources({"prompt": PromptTemplate(template="Say {word}.")})
    await store.update_resources(prompt.resources_id, {"llm": LLM(model="m", endpoint="http://127.0.0.1:1/v1")})
    requests = [
        EnqueueRolloutRequest(input={"n": n}, mode="train", config=LONG_LEASE, metadata={"n": n}) for n in range(7)
    ]
    await store.enqueue_many_rollouts(requests)
    for number, status in enumerate(("succeeded", "failed", "running", "preparing", "cancelled")):
        attempted = await store.dequeue_rollout(worker_id=f"worker-{number}")
        assert attempted is not None
        ids = attempted.rollout_id, attempted.attempt.attempt_id
        if status != "preparing":
            reward = {"agentlightning.reward.0.value": 0.5}
            await store.add_many_spans([span(attempted, 1), span(attempted, 2, "reward", attributes=reward)])
        if status == "cancelled":
            await store.update_rollout(ids[0], status="cancelled")
        elif status in ("succeeded", "failed"):
            await store.update_attempt(*ids, status=status, metadata={"reason": status})
    await store.update_worker("worker-9", heartbeat_stats={"load": 0.5})


async def write(version: int, folder: Path) -> None:
    path = folder / "kept.db"
    schema.STEPS[:] = schema.STEPS[:version]
    async with SqliteLightningStore(path) as store:
        await fill(store)
        expected = await contents(store)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = DELETE; VACUUM").fetchall()
    connection.close()
    DATA.mkdir(exist_ok=True)
    (DATA / f"schema-{version}.db.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    (DATA / f"schema-{version}.json").write_bytes(orjson.dumps(expected, option=orjson.OPT_SORT_KEYS))


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else len(schema.STEPS)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write(wanted, Path(folder)))
