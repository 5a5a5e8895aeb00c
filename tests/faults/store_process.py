"""A store in a process of its own, to be killed and started again.

A nursery that has everything imported forks each of them, so that a start takes milliseconds; what is killed is a whole
process all the same. `python -m tests.faults.store_process FILE PORT` is the nursery.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from agentlightning.store import LightningStoreServer, SqliteLightningStore
from agentlightning.store.db.sqlite import SqliteDatabase
from agentlightning.store.db.write_requests import Job, deliver

from ..processes import free_port

ROOT = Path(__file__).parents[2]


class StoreProcess:
    """A store on a file and a port that it keeps when it is started again."""

    def __init__(self, path: Path, *, hasty: bool = False) -> None:
        self.path = path
        self._arguments = ["hasty"] if hasty else []
        """What shows that a kill can be noticed: this one answers before it commits."""
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.pid: int | None = None

    async def start(self) -> None:
        """Returns when the store answers."""
        assert self._nursery.stdin
        self._nursery.stdin.write(b"start\n")
        said = await self._said()
        assert said.isdigit(), f"the store did not start: {said!r}"
        self.pid = int(said)

    def kill(self) -> None:
        """At once: SIGKILL."""
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Waits for the process to be no more."""
        assert await self._said() == f"ended {-signal.SIGKILL}"
        self.pid = None

    async def _said(self) -> str:
        assert self._nursery.stdout
        return (await self._nursery.stdout.readline()).decode().strip()

    async def __aenter__(self) -> StoreProcess:
        command = sys.executable, "-m", "tests.faults.store_process", str(self.path), str(self._port)
        command = *command, *self._arguments
        self._nursery = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._nursery.stdin
        if self.pid:
            self.kill()
        self._nursery.stdin.close()
        await self._nursery.wait()


def nurse(path: str, port: int) -> None:
    """Fork a store for each line that comes in; the next one only when that has ended."""
    while sys.stdin.readline():
        if (child := os.fork()) == 0:
            asyncio.run(serve(path, port))
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


async def serve(path: str, port: int) -> None:
    """Serve until killed, or until nobody is there any more to do so."""
    server = LightningStoreServer(SqliteLightningStore(path), port=port)
    await server.start()
    print(os.getpid(), flush=True)
    asyncio.get_running_loop().add_reader(0, os._exit, 1)  # nothing is said to a store, so that this is the pipe's end
    await asyncio.Event().wait()


def make_hasty() -> None:
    """Let the store answer each call before its commit, on a disk that takes its time."""
    run = SqliteDatabase._run

    def hasty(database: SqliteDatabase, job: Job, transaction: Any) -> bool:
        succeeded = run(database, job, transaction)
        deliver([job])
        time.sleep(0.01)
        return succeeded

    SqliteDatabase._run = hasty


if __name__ == "__main__":
    if sys.argv[3:] == ["hasty"]:
        make_hasty()
    nurse(sys.argv[1], int(sys.argv[2]))
