"""Connections on which nothing comes, and bodies that never end: whoever else asks is answered as ever.

python -m tests.faults.slow_clients --idle 10000
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import aiohttp

from .results import on_record
from .store_process import StoreProcess

SLOW, ASKED = 100, 200
HEAD = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@dataclass
class Crowd:
    """How it was to ask beside them."""

    idle: int = 0
    slow: int = 0
    asked: int = 0
    p99_in_ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.idle} idle and {self.slow} slow connections: /health p99 {self.p99_in_ms:.1f} ms of {self.asked}"


async def ask_beside(folder: Path, idle: int, crowd: Crowd | None = None) -> Crowd:
    """How long `/health` takes beside so many idle connections, and a hundred slow ones."""
    crowd, times = crowd or Crowd(), list[float]()
    _let_open(idle + SLOW + 500)
    writers: list[asyncio.StreamWriter] = []
    async with StoreProcess(folder / "agl.db") as store:
        where = urlsplit(store.endpoint)
        try:
            for number in range(idle + SLOW):
                writers.append((await asyncio.open_connection(where.hostname, where.port))[1])
                writers[-1].write(HEAD if number < SLOW else b"")
            crowd.idle, crowd.slow = idle, SLOW
            async with aiohttp.ClientSession() as session:
                while crowd.asked < ASKED:
                    crowd.asked += 1
                    times.append(await _one(session, store.endpoint))
                    crowd.p99_in_ms = sorted(times)[int(len(times) * 0.99)] * 1000
        finally:
            for writer in writers:
                writer.transport.abort()
    return crowd


async def _one(session: aiohttp.ClientSession, endpoint: str) -> float:
    began = time.perf_counter()
    async with session.get(f"{endpoint}/health") as answer:
        assert answer.status == 200
    return time.perf_counter() - began


def _let_open(files: int) -> None:
    """Raise the limit on open files as far as it goes; children have it too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(files, hard)), hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=10_000)
    given = parser.parse_args()
    crowd = Crowd()
    with on_record("slow_clients", crowd), TemporaryDirectory() as folder:
        asyncio.run(ask_beside(Path(folder), given.idle, crowd))


if __name__ == "__main__":
    main()
