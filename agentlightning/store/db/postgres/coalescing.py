"""Statement coalescing: combine several SQL statements into one, which saves most round trips to the database.

Statements that change different tables become one statement, `WITH s0 AS (UPDATE …), s1 AS (INSERT …) UPDATE …`. All
its parts see the database as it was before the statement, so no two parts may change the same table.

A *row of values* contains the parameters for one run of a statement. If a statement is to run for several rows of
values, it becomes one statement for all of them: `UPDATE … FROM unnest($1::text[], $2::float8[]) …`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

from ..database import Row, Values

Changes = dict[str, list[Values]]
"""Statements in the order in which to run them, each with its rows of values. Each changes a different table."""
Types = tuple[str, ...]
"""The names of the PostgreSQL types of a statement's parameters."""

MAX_BATCH_BYTES = 8 * 2**20
"""Maximum total size, in bytes, of the `bytes` values in a combined statement.

The changes made by one transaction body are never split, even if they exceed this size.
"""


_CHANGES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_NAMES_ITS_TABLES = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_TABLES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
_PARAMETER = re.compile(r"\?(\d+)")
_SELECT = re.compile(r"SELECT (?!.*LIMIT \?).*")
_INSERT = re.compile(
    r"(INSERT INTO \w+ \((\w+)[^()]*\)) VALUES \((.*?)\)((?: ON CONFLICT .*?)?)((?: RETURNING (\w+).*)?)"
)
_UPDATE = re.compile(r"(UPDATE \w+ SET .*) (WHERE \w+ = \?1(?: AND [^()?]*?)?)(?: RETURNING ([^()]*))?")


class RowBatcher:
    """Sends statements over one connection. A statement with several rows of values is sent only once if possible."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._types: dict[str, Types | None] = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Run a statement and return its rows."""
        return cast("list[Row]", await self._connection.fetch(dollar_parameters(sql), *values))

    async def fetch_each(self, sql: str, values: list[Values]) -> Sequence[Sequence[Row]]:
        """Run a statement for each row of values, and return the table rows from each run."""
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
        """Send the changes made by several bodies. If possible, combine those that consist of the same statements."""
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
        """Return the statement's parameter types, or None if it cannot run for several rows of values at once."""
        if sql not in self._types:
            self._types[sql] = await self._find_types(sql) if supports_rows(sql) else None
        return self._types[sql]

    async def _find_types(self, sql: str) -> Types | None:
        parameters = (await self._connection.prepare(dollar_parameters(sql))).get_parameters()
        return None if any(each.kind == "array" for each in parameters) else tuple(each.name for each in parameters)


def _has_many_rows(group: list[Changes]) -> bool:
    return len(group) > 1 or any(len(values) > 1 for values in group[0].values())


def _are_distinct(sql: str, values: Iterable[Values]) -> bool:
    """Return False if one run for all rows of values would have to change the same table row twice."""
    keys = [each[0] for each in values] if is_one_per_row(sql) else []
    return len(set(keys)) == len(keys)


def _batches(several: list[Changes]) -> Iterator[Changes]:
    """Merge changes into batches that do not change any table row twice and do not exceed `MAX_BATCH_BYTES`."""
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
    """Return the indexes of `values`, sorted by the first parameter if the statement locks existing table rows.

    To prevent deadlocks, all servers must lock rows in the same order.
    """
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


class WriteBuffer:
    """The changes made by one transaction body that have not been sent to the database yet.

    They must be sent before the body runs a statement that uses a changed table, and at the latest when the body ends.
    """

    def __init__(self) -> None:
        self._changes: Changes = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    def must_precede(self, sql: str) -> bool:
        """Return True if the buffer must be sent before `sql`.

        This is the case if `sql` may use a changed table or change the schema.
        """
        if not self._changes:
            return False
        tables = map(changed_table, self._changes)
        return not _NAMES_ITS_TABLES.match(sql) or not named_tables(sql).isdisjoint(tables)

    def add(self, sql: str, values: list[Values]) -> None:
        """Add a statement that is to run for each row of values."""
        if values:
            self._changes[sql] = values

    def take(self) -> Changes:
        """Return all changes and empty the buffer."""
        changes, self._changes = self._changes, {}
        return changes


@lru_cache(4096)
def dollar_parameters(sql: str, offset: int = 0) -> str:
    """Convert parameters such as `?1` to the PostgreSQL form `$1`, and add `offset` to their numbers."""
    return _PARAMETER.sub(lambda match: f"${int(match[1]) + offset}", sql)


@lru_cache(4096)
def named_tables(sql: str) -> frozenset[str]:
    """Return the names of the tables that a statement reads or changes."""
    return frozenset(_TABLES.findall(sql))


@lru_cache(4096)
def changed_table(sql: str) -> str | None:
    """Return the name of the table that a statement changes, or None for a SELECT or a schema change."""
    match = _CHANGES.match(sql)
    return match and match[1]


@lru_cache(4096)
def combine(statements: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Combine statements into one. `sizes` contains the number of parameters for each statement."""
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    return _with_clauses([dollar_parameters(*each) for each in zip(statements, offsets, strict=True)])


@lru_cache(4096)
def combine_over_rows(statements: tuple[str, ...], types: tuple[tuple[str, ...], ...]) -> str:
    """Combine statements into one that runs each of them for several rows of values.

    Each parameter becomes an array with one element per row of values. `types` contains each statement's element types.
    """
    offsets = [sum(map(len, types[:index])) for index in range(len(types))]
    return _with_clauses([over_rows(*each) for each in zip(statements, types, offsets, strict=True)])


def _with_clauses(statements: list[str]) -> str:
    *before, last = statements
    parts = ", ".join(f"s{index} AS ({sql})" for index, sql in enumerate(before))
    return f"WITH {parts} {last}" if parts else last


@lru_cache(4096)
def over_rows(sql: str, types: tuple[str, ...], offset: int = 0) -> str:
    """Rewrite a statement so that it runs for several rows of values. Each parameter becomes an array.

    The first column of a returned row identifies the row of values that produced it. The column contains either the
    number of that row of values, counted from 1, or a key (see `returns_key`). The parameters are numbered from
    `offset` + 1.
    """
    arrays = ", ".join(f"${offset + index}::{name}[]" for index, name in enumerate(types, 1))
    names = "".join(f"p{index}, " for index in range(1, len(types) + 1))
    given = f"unnest({arrays}) WITH ORDINALITY AS v({names}n)"
    if insert := _INSERT.fullmatch(sql):
        return f"{insert[1]} SELECT {_row_parameters(insert[3])} FROM {given} ORDER BY v.n{insert[4]}{insert[5]}"
    if update := _UPDATE.fullmatch(sql):
        returned = f" RETURNING v.n, {update[3]}" if update[3] else ""
        return f"{_row_parameters(update[1])} FROM {given} {_row_parameters(update[2])}{returned}"
    return f"SELECT v.n, q.* FROM {given} CROSS JOIN LATERAL ({_row_parameters(sql)}) q"


def _row_parameters(sql: str) -> str:
    return _PARAMETER.sub(r"v.p\1", sql)


@lru_cache(4096)
def supports_rows(sql: str) -> bool:
    """Return True if `over_rows` can rewrite the statement."""
    if insert := _INSERT.fullmatch(sql):
        return insert[6] in (None, insert[2]) and "?" not in insert[4]
    return bool(_UPDATE.fullmatch(sql) or _SELECT.fullmatch(sql))


@lru_cache(4096)
def is_one_per_row(sql: str) -> bool:
    """Return True if rows of values with the same first value must not be combined in one run of the statement.

    The first parameter of such a statement identifies the table row to insert or change.
    """
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or (returns_key(sql) and "RETURNING" in sql)


@lru_cache(4096)
def returns_key(sql: str) -> bool:
    """Return True if the rows that the rewritten statement returns begin with a key instead of a number.

    The key is the first value in the row of values that produced the returned row.
    """
    return sql.startswith("INSERT")


@lru_cache(4096)
def sorts_rows(sql: str) -> bool:
    """Return True if the rows of values must be sorted by their first value before they are sent.

    This applies to statements that lock existing table rows. A plain INSERT keeps the order of its rows of values,
    because the database numbers the new table rows in this order.
    """
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or sql.endswith("FOR UPDATE")
