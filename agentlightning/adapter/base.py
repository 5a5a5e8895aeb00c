"""Adapter and TraceAdapter: the base classes of all adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from ..types import Span

From = TypeVar("From", contravariant=True)
To = TypeVar("To", covariant=True)


class Adapter(Generic[From, To]):
    """Converts one kind of data to another."""

    def adapt(self, source: From, /) -> To:
        """Convert `source`."""
        raise NotImplementedError

    def __call__(self, source: From, /) -> To:
        return self.adapt(source)


class TraceAdapter(Adapter[Sequence[Span], To]):
    """Converts the spans of one attempt, in the order in which the store returns them."""
