"""A store in a process of its own, to be killed: `python -m tests.faults.store_process FILE PORT` serves FILE."""

from __future__ import annotations

import asyncio
import sys

from agentlightning.store import LightningStoreServer, SqliteLightningStore


async def serve(path: str, port: int) -> None:
    server = LightningStoreServer(SqliteLightningStore(path), port=port)
    await server.start()
    print(server.endpoint, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
