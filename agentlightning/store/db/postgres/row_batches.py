"""Row batches: a statement with many rows of values, sent to PostgreSQL as one statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from ..database import Row, Values
from .coalescing import (
    Changes,
    combine,
    combine_over_rows,
    dollar_parameters,
    is_one_per_row,
    over_rows,
    returns_key,
    sorts_rows,
    supports_rows,
)

Types = tuple[str, ...]

MAX_BATCH_BYTES = 8 * 2**20
"""A change of this size is sent in a statement of its own."""


class RowBatcher:
    """Statements on one connection, batched over rows of values."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._types: dict[str, Types | None] = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Return the rows of a statement."""
        return cast("list[Row]", await self._connection.fetch(dollar_parameters(sql), *values))

    async def fetch_each(self, sql: str, values: list[Values]) -> Sequence[Sequence[Row]]:
        """Return the rows of a statement for each of `values`."""
        types = await self._types_of(sql) if len(values) > 1 and _are_distinct(sql, values) else None
        if types is None:
            return [await self.fetch(sql, *each) for each in values]
        if not types:
            return [await self.fetch(sql)] * len(values)
        order = _lock_order(sql, values)
        found: list[Row] = await self._connection.fetch(
            over_rows(sql, types), *_columns([values[index] for index in order])
        )
        if returns_key(sql):
            return _grouped(((row[0], row) for row in found), [each[0] for each in values])
        return _grouped(((order[int(row[0]) - 1], row[1:]) for row in found), range(len(values)))

    async def send(self, several: Iterable[Changes]) -> None:
        """Send changes: equal kinds in one statement, different kinds one after another."""
        by_kind: dict[tuple[str, ...], list[Changes]] = {}
        for changes in several:
            by_kind.setdefault(tuple(changes), []).append(changes)
        for statements, group in by_kind.items():
            types = [await self._types_of(sql) for sql in statements] if _has_many_rows(group) else [None]
            if None in types or not all(_are_distinct(*each) for changes in group for each in changes.items()):
                for changes in group:
                    await self._send_one(changes)
            else:
                text = combine_over_rows(statements, tuple(cast("list[Types]", types)))
                for batch in _batches(group):
                    await self._connection.fetch(text, *_all_columns(batch))

    async def _send_one(self, changes: Changes) -> None:
        if _has_many_rows([changes]):
            for sql, values in changes.items():
                await self._connection.executemany(dollar_parameters(sql), values)
        else:
            values = [each[0] for each in changes.values()]
            text = combine(tuple(changes), tuple(map(len, values)))
            await self._connection.fetch(text, *(value for each in values for value in each))

    async def _types_of(self, sql: str) -> Types | None:
        """Return the types of a statement's parameters; None if it cannot be batched."""
        if sql not in self._types:
            self._types[sql] = await self._find_types(sql) if supports_rows(sql) else None
        return self._types[sql]

    async def _find_types(self, sql: str) -> Types | None:
        parameters = (await self._connection.prepare(dollar_parameters(sql))).get_parameters()
        return None if any(each.kind == "array" for each in parameters) else tuple(each.name for each in parameters)


def _has_many_rows(group: list[Changes]) -> bool:
    return len(group) > 1 or any(len(values) > 1 for values in group[0].values())


def _are_distinct(sql: str, values: Iterable[Values]) -> bool:
    """Return False if two of `values` concern the same row and the statement may change a row only once."""
    keys = [each[0] for each in values] if is_one_per_row(sql) else []
    return len(set(keys)) == len(keys)


def _batches(several: list[Changes]) -> Iterator[Changes]:
    """Merge changes into batches that change no row twice and stay below the size limit."""
    batch: Changes = {}
    keys: set[tuple[str, Any]] = set()
    size = 0
    for changes in several:
        new_keys = {(sql, each[0]) for sql, values in changes.items() if is_one_per_row(sql) for each in values}
        new_size = _size(changes)
        if batch and (size + new_size > MAX_BATCH_BYTES or not keys.isdisjoint(new_keys)):
            yield batch
            batch, keys, size = {}, new_keys, 0
        for sql, values in changes.items():
            batch.setdefault(sql, []).extend(values)
        keys |= new_keys
        size += new_size
    yield batch


def _size(changes: Changes) -> int:
    everything = (value for values in changes.values() for each in values for value in each)
    return sum(len(value) for value in everything if isinstance(value, bytes))


def _lock_order(sql: str, values: list[Values]) -> Sequence[int]:
    """Return the indexes of `values` in the order in which every server locks rows, which rules out deadlocks."""
    return sorted(range(len(values)), key=lambda n: values[n][0]) if sorts_rows(sql) else range(len(values))


def _columns(values: list[Values]) -> list[Sequence[Any]]:
    return list(zip(*values, strict=True))


def _all_columns(changes: Changes) -> list[Sequence[Any]]:
    return [
        column
        for sql, values in changes.items()
        for column in _columns([values[index] for index in _lock_order(sql, values)])
    ]


def _grouped(found: Iterable[tuple[Any, Row]], keys: Iterable[Any]) -> Sequence[Sequence[Row]]:
    by_key: dict[Any, list[Row]] = {key: [] for key in keys}
    for key, row in found:
        by_key[key].append(row)
    return list(by_key.values())
