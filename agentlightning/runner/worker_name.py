"""How a runner is called: by a short number in the log, by a name of its own in the store."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass

_taken: set[int] = set()
_taking = threading.Lock()
"""Protects `_taken` from runners that start in several threads at once."""


@dataclass(frozen=True)
class WorkerName:
    """Both names of a worker."""

    label: int | str
    """What the log says: `[Worker 0]`."""
    worker_id: str
    """What the store knows it by; no other process, on this machine or another, has the same."""
    counted: bool = False
    """The label is this process's next free number, to be given back."""

    def about(self, rollout_id: str | None = None) -> str:
        """How a log line of this worker begins."""
        return f"[Worker {self.label} | Rollout {rollout_id}]" if rollout_id else f"[Worker {self.label}]"

    def release(self) -> None:
        """Let another runner of this process have the number."""
        if self.counted and isinstance(self.label, int):
            with _taking:
                _taken.discard(self.label)


def name_worker(given: int | str | None) -> WorkerName:
    """Names for a worker: a number is made unique, a string is taken as it is, None is the next free number."""
    if isinstance(given, str):
        return WorkerName(given, given)
    number = _next_number() if given is None else given
    return WorkerName(number, f"{workers_of(os.getpid())}{number}", counted=given is None)


def workers_of(pid: int) -> str:
    """How the names of all workers in this process of this machine begin."""
    return f"{socket.gethostname()}-{pid}-"


def _next_number() -> int:
    with _taking:
        number = next(number for number in range(len(_taken) + 1) if number not in _taken)
        _taken.add(number)
        return number
