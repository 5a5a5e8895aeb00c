"""Resources that were fetched before: a version never changes, so it is fetched once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..store import LightningStore
from ..types import NamedResources

KEPT: Final = 32
"""Versions kept: as many as an algorithm compares at once."""


class ResourceCache:
    """The versions used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], NamedResources] = OrderedDict()

    async def get(self, store: LightningStore, resources_id: str, version: int | None) -> NamedResources | None:
        """The resources in this version; None when the store has no such thing. The dict is the caller's own."""
        if version is not None and (kept := self._kept.get((resources_id, version))) is not None:
            self._kept.move_to_end((resources_id, version))
            return dict(kept)
        update = await store.get_resources_by_id(resources_id, version)
        if update is None:
            return None
        self._keep((resources_id, update.version), update.resources)
        return dict(update.resources)

    def _keep(self, version: tuple[str, int], resources: NamedResources) -> None:
        self._kept[version] = resources
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
