"""Pages of query results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

from pydantic import BaseModel

T = TypeVar("T")


class PaginatedResult(BaseModel, Sequence[T], Generic[T]):
    """A page of a list. It can be used as a read-only sequence of the items on the page."""

    items: list[T]
    limit: int
    """The requested page size. -1 means all items."""
    offset: int
    total: int
    """Number of items on all pages. A page requested with a cursor repeats the count from the first page."""
    cursor: str | None = None
    """Pass this value to the same query to request the next page. None on the last page.

    Unlike offsets, cursors also work while the list changes: an item that exists from the first request to the last
    appears exactly once. Only an item whose sort key changes between requests may appear twice or not at all.
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
