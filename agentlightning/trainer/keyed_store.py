"""KeyedStore: the wrapper through which the algorithm uses the store. It enqueues only one rollout per key.

A rollout has a key if its metadata has an entry named "key". When the same key is enqueued again, for example by an
algorithm that was killed and resumed, the existing rollout is returned, even if it is still queued or running.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ..errors import Conflict
from ..store import LightningStore
from ..store.contract import AnyRollout, Capabilities, Route, implement_operations
from ..types import AttemptedRollout, EnqueueRolloutRequest, Rollout

KEY: Final = "key"
PAGE_SIZE: Final = 1000

_ENQUEUE: Final = inspect.signature(LightningStore.enqueue_rollout)


def _delegate(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(self: KeyedStore, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.inner, route.name)(*args, **kwargs)

    return call


@implement_operations(_delegate)
class _DelegatingStore(LightningStore):
    """Delegates every operation to another store, `inner`."""


class KeyedStore(_DelegatingStore):
    """A wrapper for `inner` that enqueues only one rollout per key. Closing the wrapper does not close `inner`."""

    def __init__(self, inner: LightningStore) -> None:
        self.inner = inner
        self._ids_by_key: dict[str, str] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def otlp_traces_endpoint(self) -> str | None:
        return self.inner.otlp_traces_endpoint()

    async def load_keys(self) -> None:
        """Load the keys of existing rollouts, so that these rollouts are not enqueued again.

        The keys of cancelled rollouts, and of rollouts that failed because their runner died, are not loaded. These
        rollouts can therefore be enqueued again.
        """
        cursor: str | None = None
        while True:
            page = await self.inner.query_rollouts(limit=PAGE_SIZE, cursor=cursor, cut_at=1)
            for rollout in page:
                if not _is_lost(rollout):
                    self._add_key(rollout)
            if (cursor := page.cursor) is None:
                return

    async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Rollout:
        arguments = _ENQUEUE.bind(self, *args, **kwargs).arguments
        if existing := await self._existing(arguments.get("metadata")):
            return existing
        rollout = await self.inner.enqueue_rollout(*args, **kwargs)
        self._add_key(rollout)
        return rollout

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        keys = [key for request in rollouts if (key := _key_of(request.metadata)) is not None]
        if len(set(keys)) < len(keys):
            raise Conflict("two of the rollouts have the same key; use a unique key for each", field=KEY)
        existing = [await self._existing(request.metadata) for request in rollouts]
        missing = [request for request, found in zip(rollouts, existing, strict=True) if found is None]
        enqueued = iter(await self.inner.enqueue_many_rollouts(missing) if missing else [])
        result = [found or next(enqueued) for found in existing]
        for rollout in result:
            self._add_key(rollout)
        return result

    async def _existing(self, metadata: dict[str, Any] | None) -> AnyRollout | None:
        rollout_id = self._ids_by_key.get(_key_of(metadata) or "")
        return None if rollout_id is None else await self.inner.get_rollout_by_id(rollout_id)

    def _add_key(self, rollout: Rollout) -> None:
        if (key := _key_of(rollout.metadata)) is not None:
            self._ids_by_key[key] = rollout.rollout_id


def _is_lost(rollout: AnyRollout) -> bool:
    """Return True if the rollout was cancelled, or if its only permitted attempt failed because the runner died."""
    if rollout.status != "failed" or not isinstance(rollout, AttemptedRollout):
        return rollout.status == "cancelled"
    return rollout.attempt.status == "unresponsive" and rollout.config.max_attempts == 1


def _key_of(metadata: dict[str, Any] | None) -> str | None:
    key = (metadata or {}).get(KEY)
    return None if key is None else str(key)
