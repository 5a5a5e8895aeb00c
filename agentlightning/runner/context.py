"""RunnerContext, which holds the objects that all attempts of one runner share, such as its name and resource cache."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ..errors import ResourceMissing, StoreUnavailable
from ..litagent import LitAgent
from ..retry import RetryPolicy
from ..store import LightningStore
from ..tracer import Tracer
from ..types import Hook, NamedResources

logger = logging.getLogger(__name__)

R = TypeVar("R")

STORE_RETRIES: Final = RetryPolicy(first_delay=0.1, max_delay=5.0)
CACHED_VERSIONS: Final = 32
"""Maximum number of resource versions that a runner keeps in memory. Algorithms rarely use more at the same time."""


@dataclass(frozen=True)
class WorkerName:
    """The two names of a runner: one for the log and one for its worker record in the store."""

    label: int | str
    """Name in the log, such as 0 in `[Worker 0]`."""
    worker_id: str
    """Name in the store, which must be unique across processes and machines."""

    def log_prefix(self, rollout_id: str | None = None) -> str:
        """Return the prefix for this worker's log lines, with the rollout id if one is given."""
        return f"[Worker {self.label} | Rollout {rollout_id}]" if rollout_id else f"[Worker {self.label}]"


_numbers: set[int] = set()
_numbers_lock = threading.Lock()
"""Protects `_numbers`, the numbers that `worker_name` has chosen, when runners start in several threads."""


@contextmanager
def worker_name(given: int | str | None) -> Generator[WorkerName]:
    """Yield the two names of a worker.

    If `given` is a string, both names are that string. If it is a number, the log shows that number, and the name in
    the store consists of the host name, the process id and the number. If it is None, the function chooses the lowest
    number that it has not already chosen for another active worker in this process.
    """
    if isinstance(given, str):
        yield WorkerName(given, given)
        return
    with _numbers_lock:
        free = next(number for number in range(len(_numbers) + 1) if number not in _numbers)
        number, taken = (free, {free}) if given is None else (given, set[int]())
        _numbers.update(taken)
    try:
        yield WorkerName(number, f"{worker_id_prefix(os.getpid())}{number}")
    finally:
        _numbers.difference_update(taken)


def worker_id_prefix(pid: int) -> str:
    """Return the common prefix of the ids of all numbered workers in process `pid` on this machine."""
    return f"{socket.gethostname()}-{pid}-"


def system_info() -> dict[str, Any]:
    """Return information about the machine, this process and the current load. Unavailable values are omitted."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    if sys.platform != "win32":
        import resource

        # Peak memory of the process, in bytes on macOS and in kilobytes elsewhere.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        facts["load"] = round(os.getloadavg()[0], 2)
        facts["memory_mb"] = round(peak / (1e6 if sys.platform == "darwin" else 1e3))
    return facts


@dataclass
class StoreRetry:
    """Retries store operations while the store is unreachable, and logs the start and end of each outage."""

    worker: WorkerName
    _unreachable: bool = False

    async def until_done(self, operation: Callable[[], Awaitable[R]]) -> R:
        """Call `operation`, retrying while the store is unreachable, and return the result. Other errors are raised."""
        for delay in STORE_RETRIES.delays():
            try:
                result = await operation()
            except StoreUnavailable as error:
                if not self._unreachable:
                    prefix = self.worker.log_prefix()
                    logger.warning("%s The store is unreachable (%s); retrying until it responds.", prefix, error)
                self._unreachable = True
                await asyncio.sleep(delay)
            else:
                if self._unreachable:
                    logger.info("%s The store is reachable again.", self.worker.log_prefix())
                self._unreachable = False
                return result
        raise AssertionError("unreachable: the delays never end")


class ResourceCache:
    """Cache of recently used resource versions. Versions are immutable, so cached versions are never outdated."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, int], NamedResources] = OrderedDict()

    async def get(self, store: LightningStore, resources_id: str, version: int | None) -> NamedResources:
        """Return the given version of the resources as a new dict. If `version` is None, return the latest version.

        Raises `ResourceMissing` if the store does not contain that version.
        """
        if version is not None and (cached := self._versions.get((resources_id, version))) is not None:
            self._versions.move_to_end((resources_id, version))
            return dict(cached)
        update = await store.get_resources_by_id(resources_id, version)
        if update is None:
            raise ResourceMissing(f"the resources {resources_id} (version {version}) are not in the store; add them")
        self._versions[resources_id, update.version] = update.resources
        if len(self._versions) > CACHED_VERSIONS:
            self._versions.popitem(last=False)
        return dict(update.resources)


@dataclass(frozen=True)
class RunnerContext:
    """The objects shared by all attempts of one runner."""

    runner: Any
    agent: LitAgent[Any]
    tracer: Tracer
    store: LightningStore
    hooks: Sequence[Hook]
    worker: WorkerName
    retry: StoreRetry
    resources: ResourceCache = field(default_factory=ResourceCache)
