"""A store in its own process that can be killed and restarted.

A fork server with all modules imported forks each store process, so that a start takes milliseconds. `python -m
tests.faults.store_process FILE PORT` is the fork server.
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
from agentlightning.store.db.database import WriteRequest, deliver_results
from agentlightning.store.db.sqlite import SqliteDatabase

from ..processes import free_port

ROOT = Path(__file__).parents[2]


class StoreProcess:
    """A store on a file and a port that stay the same after a restart.

    With `acknowledge_early`, it acknowledges before the commit, a bug that the kill tests must detect.
    """

    def __init__(self, path: Path, *, acknowledge_early: bool = False) -> None:
        self._port = free_port()
        options = ["acknowledge-early"] if acknowledge_early else []
        self._command = [sys.executable, "-m", "tests.faults.store_process", str(path), str(self._port), *options]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.pid: int | None = None

    async def start(self) -> None:
        """Start the store; return when it answers."""
        assert self._fork_server.stdin
        self._fork_server.stdin.write(b"start\n")
        line = await self._read_line()
        assert line.isdigit(), f"the store did not start: {line!r}"
        self.pid = int(line)

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)

    async def wait_until_killed(self) -> None:
        """Return when the killed process has ended."""
        assert await self._read_line() == f"ended {-signal.SIGKILL}"
        self.pid = None

    async def _read_line(self) -> str:
        assert self._fork_server.stdout
        return (await self._fork_server.stdout.readline()).decode().strip()

    async def __aenter__(self) -> StoreProcess:
        self._fork_server = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._fork_server.stdin
        if self.pid:
            self.kill()
        self._fork_server.stdin.close()
        await self._fork_server.wait()


def run_fork_server(path: str, port: int) -> None:
    """Fork a store for each line on stdin, after the previous one has ended."""
    while sys.stdin.readline():
        if (child := os.fork()) == 0:
            asyncio.run(serve(path, port))
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


async def serve(path: str, port: int) -> None:
    """Serve until killed, or until the test's process has ended."""
    server = LightningStoreServer(SqliteLightningStore(path), port=port)
    await server.start()
    print(os.getpid(), flush=True)
    asyncio.get_running_loop().add_reader(0, os._exit, 1)  # stdin is readable only at its end
    await asyncio.Event().wait()


def acknowledge_before_commit() -> None:
    """Make the store deliver each result before its commit, on a slow disk."""
    database_class: Any = SqliteDatabase
    run_request = database_class._run_request

    def run_and_deliver(database: SqliteDatabase, request: WriteRequest, transaction: Any) -> bool:
        succeeded = run_request(database, request, transaction)
        deliver_results([request], database.counters)
        time.sleep(0.01)
        return succeeded

    database_class._run_request = run_and_deliver


if __name__ == "__main__":
    if sys.argv[3:] == ["acknowledge-early"]:
        acknowledge_before_commit()
    run_fork_server(sys.argv[1], int(sys.argv[2]))
