"""Pages of query results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

from pydantic import BaseModel

T = TypeVar("T")


class PaginatedResult(BaseModel, Sequence[T], Generic[T]):
    """A page of a list, usable as a read-only sequence of its items."""

    items: list[T]
    limit: int
    """The requested page size. -1 means all items."""
    offset: int
    total: int
    """Number of items on all pages. Pages reached by a cursor repeat the first page's count."""
    cursor: str | None = None
    """Position of the next page of the same query, or None on the last page.

    Unlike an offset, a cursor is stable while the list changes: an item that exists from the first request to the last
    appears exactly once.
    Only an item whose sort key changes between requests may appear twice or not at all.
    """

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self.items[index]

    def __iter__(self) -> Iterator[T]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return iter(self.items)
