"""A page of a longer list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

T = TypeVar("T")


class PaginatedResult(BaseModel, Sequence[T], Generic[T]):
    """Some items of a longer list; itself a read-only sequence of them."""

    items: list[T]
    limit: int
    """What was asked for; -1 is all."""
    offset: int
    total: int
    """How many there are on all pages together; on those that a cursor leads to, as it was for the first."""
    cursor: str | None = None
    """Where the next page begins, for the same call; None when this is the last.

    Unlike an offset it stays right while the list changes: what is there all the time comes once, on one page. Only
    what changes its place, in an order by something that changes, may come twice or not at all.
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

    def __contains__(self, value: Any) -> bool:
        return value in self.items
