"""Identity of a worker: its names in the log and in the store, and facts about its machine."""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

_numbers: set[int] = set()
_numbers_lock = threading.Lock()
"""Protects `_numbers` from runners that start in several threads."""


@dataclass(frozen=True)
class WorkerName:
    """The two names of a worker."""

    label: int | str
    """Name in the log: `[Worker 0]`."""
    worker_id: str
    """Name in the store, unique across processes and machines."""
    is_numbered: bool = False
    """True when the label is a number of this process, to be released."""

    def log_prefix(self, rollout_id: str | None = None) -> str:
        """Return the beginning of this worker's log lines."""
        return f"[Worker {self.label} | Rollout {rollout_id}]" if rollout_id else f"[Worker {self.label}]"

    def release(self) -> None:
        """Release the number for another runner of this process."""
        if self.is_numbered and isinstance(self.label, int):
            with _numbers_lock:
                _numbers.discard(self.label)


def assign_worker_name(given: int | str | None) -> WorkerName:
    """Return a worker's names. A number is made unique, a string is used as it is, None is the next free number."""
    if isinstance(given, str):
        return WorkerName(given, given)
    number = _next_number() if given is None else given
    return WorkerName(number, f"{worker_id_prefix(os.getpid())}{number}", is_numbered=given is None)


def worker_id_prefix(pid: int) -> str:
    """Return the common prefix of the store names of all workers in a process of this machine."""
    return f"{socket.gethostname()}-{pid}-"


def system_info() -> dict[str, Any]:
    """Return facts about the machine and the process, with their current load. Unavailable ones are left out."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    if sys.platform != "win32":
        import resource

        # The peak of the process's memory: bytes on macOS, kilobytes elsewhere.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        facts["load"] = round(os.getloadavg()[0], 2)
        facts["memory_mb"] = round(peak / (1e6 if sys.platform == "darwin" else 1e3))
    return facts


def _next_number() -> int:
    with _numbers_lock:
        number = next(number for number in range(len(_numbers) + 1) if number not in _numbers)
        _numbers.add(number)
        return number
