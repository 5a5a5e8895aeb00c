"""KeyedStore: the algorithm's view of the store, in which a key names one rollout for the whole of a run.

A rollout enqueued with `metadata={"key": …}` is enqueued once. Who enqueues it again, above all an algorithm that was
killed and is resumed, gets the one that is there: finished, running, or waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ..errors import Conflict
from ..store import LightningStore
from ..store.contract import AnyRollout, Capabilities, Route, forwarding
from ..types import AttemptedRollout, EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode

KEY: Final = "key"
PAGE: Final = 1000


def _pass_on(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(self: KeyedStore, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.inner, route.name)(*args, **kwargs)

    return call


@forwarding(_pass_on)
class _Forwarding(LightningStore):
    """Every operation of the contract, as the store behind it does it."""


class KeyedStore(_Forwarding):
    """`inner`, with rollouts that are found by their keys. Closing it leaves `inner` open."""

    def __init__(self, inner: LightningStore) -> None:
        self.inner = inner
        self._by_key: dict[str, str] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def otlp_traces_endpoint(self) -> str | None:
        return self.inner.otlp_traces_endpoint()

    async def recall(self) -> None:
        """Learn the keys of the rollouts that are there; cancelled and lost ones are enqueued anew."""
        cursor: str | None = None
        while True:
            page = await self.inner.query_rollouts(limit=PAGE, cursor=cursor, cut_at=1)
            for rollout in page:
                if not _is_lost(rollout):
                    self._remember(rollout)
            if (cursor := page.cursor) is None:
                return

    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        if known := await self._known(metadata):
            return known
        rollout = await self.inner.enqueue_rollout(input, mode, resources_id, config, metadata)
        self._remember(rollout)
        return rollout

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        keys = [_key_of(request.metadata) for request in rollouts]
        if len({key for key in keys if key}) < sum(key is not None for key in keys):
            raise Conflict("two of the rollouts have the same key", field=KEY)
        found = [await self._known(request.metadata) for request in rollouts]
        missing = [request for request, known in zip(rollouts, found, strict=True) if known is None]
        made = iter(await self.inner.enqueue_many_rollouts(missing) if missing else [])
        everything = [known or next(made) for known in found]
        for rollout in everything:
            self._remember(rollout)
        return everything

    async def _known(self, metadata: dict[str, Any] | None) -> AnyRollout | None:
        rollout_id = self._by_key.get(_key_of(metadata) or "")
        return None if rollout_id is None else await self.inner.get_rollout_by_id(rollout_id)

    def _remember(self, rollout: Rollout) -> None:
        if (key := _key_of(rollout.metadata)) is not None:
            self._by_key[key] = rollout.rollout_id


def _is_lost(rollout: AnyRollout) -> bool:
    """Nothing came of it that says anything of the agent: cancelled, or its only attempt ended with its runner."""
    if rollout.status != "failed" or not isinstance(rollout, AttemptedRollout):
        return rollout.status == "cancelled"
    return rollout.attempt.status == "unresponsive" and rollout.config.max_attempts == 1


def _key_of(metadata: dict[str, Any] | None) -> str | None:
    key = (metadata or {}).get(KEY)
    return None if key is None else str(key)
