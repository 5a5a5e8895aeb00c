"""Adapter: from what was recorded to what an algorithm learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from ..types import Span

From = TypeVar("From", contravariant=True)
To = TypeVar("To", covariant=True)


class Adapter(Generic[From, To]):
    """Makes one kind of data of another."""

    def adapt(self, source: From, /) -> To:
        """What becomes of `source`."""
        raise NotImplementedError

    def __call__(self, source: From, /) -> To:
        return self.adapt(source)


class TraceAdapter(Adapter[Sequence[Span], To]):
    """Makes data of the spans of one attempt, in the order in which the store gives them."""
