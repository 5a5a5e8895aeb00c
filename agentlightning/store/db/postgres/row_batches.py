"""Statements on a PostgreSQL connection that are wanted with many rows of values: sent as few, answered to each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from ..database import Row
from .coalescing import (
    Changes,
    Values,
    answers_by_key,
    dollars,
    for_many,
    in_any_order,
    once_a_row,
    suits_many,
    together,
    together_for_many,
)

Types = tuple[str, ...]

MOST_BYTES = 8 * 2**20
"""Beside which nothing else goes into one statement."""


class Bulk:
    """What can be said at once, on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._types: dict[str, Types | None] = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """A statement's rows."""
        return cast("list[Row]", await self._connection.fetch(dollars(sql), *values))

    async def fetch_each(self, sql: str, values: list[Values]) -> Sequence[Sequence[Row]]:
        """A statement's rows for each of `values`."""
        types = await self._types_of(sql) if len(values) > 1 and _are_apart(sql, values) else None
        if types is None:
            return [await self.fetch(sql, *each) for each in values]
        if not types:
            return [await self.fetch(sql)] * len(values)
        order = _order(sql, values)
        found: list[Row] = await self._connection.fetch(
            for_many(sql, types), *_columns([values[place] for place in order])
        )
        if answers_by_key(sql):
            return _shared_out(((row[0], row) for row in found), [each[0] for each in values])
        return _shared_out(((order[int(row[0]) - 1], row[1:]) for row in found), range(len(values)))

    async def send(self, several: Iterable[Changes]) -> None:
        """Make the changes: those of the same kind at once, others one after another."""
        alike: dict[tuple[str, ...], list[Changes]] = {}
        for changes in several:
            alike.setdefault(tuple(changes), []).append(changes)
        for statements, same in alike.items():
            types = [await self._types_of(sql) for sql in statements] if _are_many(same) else [None]
            if None in types or not all(_are_apart(*each) for changes in same for each in changes.items()):
                for changes in same:
                    await self._send_one(changes)
            else:
                for batch in _batches(same):
                    text = together_for_many(statements, tuple(cast("list[Types]", types)))
                    await self._connection.fetch(text, *_all_columns(batch))

    async def _send_one(self, changes: Changes) -> None:
        if _are_many([changes]):
            for sql, values in changes.items():
                await self._connection.executemany(dollars(sql), values)
        else:
            values = [each[0] for each in changes.values()]
            text = together(tuple(changes), tuple(map(len, values)))
            await self._connection.fetch(text, *(value for each in values for value in each))

    async def _types_of(self, sql: str) -> Types | None:
        """The types of a statement's values; None if it cannot be said for many."""
        if sql not in self._types:
            self._types[sql] = await self._find_types(sql) if suits_many(sql) else None
        return self._types[sql]

    async def _find_types(self, sql: str) -> Types | None:
        parameters = (await self._connection.prepare(dollars(sql))).get_parameters()
        return None if any(each.kind == "array" for each in parameters) else tuple(each.name for each in parameters)


def _are_many(same: list[Changes]) -> bool:
    return len(same) > 1 or any(len(values) > 1 for values in same[0].values())


def _are_apart(sql: str, values: Iterable[Values]) -> bool:
    """No two of them are about one row, where that matters."""
    keys = [each[0] for each in values] if once_a_row(sql) else []
    return len(set(keys)) == len(keys)


def _batches(several: list[Changes]) -> Iterator[Changes]:
    """As many as one statement may make: it changes no row twice, and has to be held in memory."""
    batch: Changes = {}
    keys: set[tuple[str, Any]] = set()
    size = 0
    for changes in several:
        more = {(sql, each[0]) for sql, values in changes.items() if once_a_row(sql) for each in values}
        larger = _size(changes)
        if batch and (size + larger > MOST_BYTES or not keys.isdisjoint(more)):
            yield batch
            batch, keys, size = {}, more, 0
        for sql, values in changes.items():
            batch.setdefault(sql, []).extend(values)
        keys |= more
        size += larger
    yield batch


def _size(changes: Changes) -> int:
    everything = (value for values in changes.values() for each in values for value in each)
    return sum(len(value) for value in everything if isinstance(value, bytes))


def _order(sql: str, values: list[Values]) -> Sequence[int]:
    """The places of `values` in the order in which every server locks rows, so that two never wait for each other."""
    return range(len(values)) if not in_any_order(sql) else sorted(range(len(values)), key=lambda n: values[n][0])


def _columns(values: list[Values]) -> list[Sequence[Any]]:
    return list(zip(*values, strict=True))


def _all_columns(changes: Changes) -> list[Sequence[Any]]:
    return [
        column
        for sql, values in changes.items()
        for column in _columns([values[place] for place in _order(sql, values)])
    ]


def _shared_out(found: Iterable[tuple[Any, Row]], keys: Iterable[Any]) -> Sequence[Sequence[Row]]:
    by_key: dict[Any, list[Row]] = {key: [] for key in keys}
    for key, row in found:
        by_key[key].append(row)
    return list(by_key.values())
