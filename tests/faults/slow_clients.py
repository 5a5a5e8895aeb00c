"""Idle connections and bodies that never end: the store still responds promptly to other clients.

python -m tests.faults.slow_clients --idle 10000
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from .long_run import run_from_command_line
from .store_process import StoreProcess

SLOW_CONNECTIONS, CALLS = 100, 200
CONNECTED_AT_ONCE = 100
INCOMPLETE_REQUEST = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@dataclass
class SlowClientsResult:
    """The connections, and the times of calls that other clients make."""

    idle: int = 0
    slow: int = 0
    asked: int = 0
    p99_in_ms: float = 0.0

    @property
    def problems(self) -> list[str]:
        return []

    def __str__(self) -> str:
        return f"{self.idle} idle and {self.slow} slow connections: /health p99 {self.p99_in_ms:.1f} ms of {self.asked}"


async def measure_beside_slow_clients(
    folder: Path, idle: int, result: SlowClientsResult | None = None
) -> SlowClientsResult:
    """Time `/health` while there are `idle` idle connections and a hundred slow ones."""
    result, times = result or SlowClientsResult(), list[float]()
    _raise_file_limit(idle + SLOW_CONNECTIONS + 500)
    writers: list[asyncio.StreamWriter] = []
    async with StoreProcess(folder / "agl.db") as store:
        url = urlsplit(store.endpoint)
        try:
            while len(writers) < idle + SLOW_CONNECTIONS:
                connecting = (asyncio.open_connection(url.hostname, url.port) for _ in range(CONNECTED_AT_ONCE))
                writers += [writer for _, writer in await asyncio.gather(*connecting)]
            for writer in writers[:SLOW_CONNECTIONS]:
                writer.write(INCOMPLETE_REQUEST)
            result.idle, result.slow = idle, SLOW_CONNECTIONS
            async with aiohttp.ClientSession() as session:
                while result.asked < CALLS:
                    result.asked += 1
                    times.append(await _time_call(session, store.endpoint))
                    result.p99_in_ms = sorted(times)[int(len(times) * 0.99)] * 1000
        finally:
            for writer in writers:
                writer.transport.abort()
    return result


async def _time_call(session: aiohttp.ClientSession, endpoint: str) -> float:
    started = time.perf_counter()
    async with session.get(f"{endpoint}/health") as response:
        assert response.status == 200
    return time.perf_counter() - started


def _raise_file_limit(files: int) -> None:
    """Raise the limit of open files as far as allowed, for this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(files, hard)), hard))


def main() -> None:
    result = SlowClientsResult()
    run_from_command_line(
        "slow_clients",
        __doc__,
        result,
        lambda given, folder: asyncio.run(measure_beside_slow_clients(folder, given.idle, result)),
        idle=10_000,
    )


if __name__ == "__main__":
    main()
