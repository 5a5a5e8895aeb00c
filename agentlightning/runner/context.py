"""RunnerContext: the parts that all attempts of one runner share."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ..errors import StoreUnavailable
from ..litagent import LitAgent
from ..retry import RetryPolicy
from ..store import LightningStore
from ..tracer import Tracer
from ..types import Hook, NamedResources
from .worker import WorkerName

logger = logging.getLogger(__name__)

R = TypeVar("R")

STORE_RETRIES: Final = RetryPolicy(first_delay=0.1, max_delay=5.0)
CACHED_VERSIONS: Final = 32
"""Versions of resources kept in memory: as many as an algorithm compares at once."""


class StoreRetry:
    """Repeats store operations while the store is unreachable; logs when that begins and ends."""

    def __init__(self, worker: WorkerName) -> None:
        self._worker = worker
        self._unreachable = False

    async def until_done(self, operation: Callable[[], Awaitable[R]]) -> R:
        """Return the operation's result, however long the store is unreachable. Raises all other errors."""
        for delay in STORE_RETRIES.delays():
            try:
                result = await operation()
            except StoreUnavailable as error:
                if not self._unreachable:
                    prefix = self._worker.log_prefix()
                    logger.warning("%s The store is unreachable: %s Retrying until it responds.", prefix, error)
                self._unreachable = True
                await asyncio.sleep(delay)
            else:
                if self._unreachable:
                    logger.info("%s The store is reachable again.", self._worker.log_prefix())
                self._unreachable = False
                return result
        raise AssertionError("the delays have no end")


class ResourceCache:
    """The most recently used versions of resources. A version never changes, so each is fetched once."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, int], NamedResources] = OrderedDict()

    async def get(self, store: LightningStore, resources_id: str, version: int | None) -> NamedResources | None:
        """Return the resources in this version as a new dict, or None when the store does not have them."""
        if version is not None and (cached := self._versions.get((resources_id, version))) is not None:
            self._versions.move_to_end((resources_id, version))
            return dict(cached)
        update = await store.get_resources_by_id(resources_id, version)
        if update is None:
            return None
        self._versions[resources_id, update.version] = update.resources
        if len(self._versions) > CACHED_VERSIONS:
            self._versions.popitem(last=False)
        return dict(update.resources)


@dataclass(frozen=True)
class RunnerContext:
    """The parts that all attempts of one runner share."""

    runner: Any
    agent: LitAgent[Any]
    tracer: Tracer
    store: LightningStore
    hooks: Sequence[Hook]
    worker: WorkerName
    retry: StoreRetry
    resources: ResourceCache = field(default_factory=ResourceCache)

    @property
    def agent_name(self) -> str:
        """Name of the agent in messages."""
        return getattr(self.agent, "__name__", None) or type(self.agent).__name__
