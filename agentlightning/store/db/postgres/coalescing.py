"""Statement coalescing: several SQL statements combined into one, which saves most round trips to the database.

Changes of different tables become one statement, `WITH s0 AS (UPDATE …), s1 AS (INSERT …) UPDATE …`. All its parts see
the database as it was before, so no two of them may change one table. A statement with many rows of values becomes one
over all of them: `UPDATE … FROM unnest($1::text[], $2::float8[]) …`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..database import Values

Changes = dict[str, list[Values]]
"""Statements that change different tables, in order, each with its rows of values."""

_CHANGES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_NAMES_ITS_TABLES = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_TABLES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
_PARAMETER = re.compile(r"\?(\d+)")
_SELECT = re.compile(r"SELECT (?!.*LIMIT \?).*")
_INSERT = re.compile(
    r"(INSERT INTO \w+ \((\w+)[^()]*\)) VALUES \((.*?)\)((?: ON CONFLICT .*?)?)((?: RETURNING (\w+).*)?)"
)
_UPDATE = re.compile(r"(UPDATE \w+ SET .*) (WHERE \w+ = \?1(?: AND [^()?]*?)?)(?: RETURNING ([^()]*))?")


class WriteBuffer:
    """Changes to send together, as long as no statement reads their tables."""

    def __init__(self) -> None:
        self._changes: Changes = {}
        self._tables: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._changes)

    def must_precede(self, sql: str) -> bool:
        """Return True if the buffer has to be sent before `sql`: it names a changed table, or changes the schema."""
        is_unrelated = _NAMES_ITS_TABLES.match(sql) and self._tables.isdisjoint(named_tables(sql))
        return bool(self._changes) and not is_unrelated

    def add(self, sql: str, values: list[Values]) -> None:
        """Add a change, once with each of `values`."""
        if values:
            self._changes[sql] = values
            self._tables.add(str(changed_table(sql)))

    def take(self) -> Changes:
        """Return all changes and empty the buffer."""
        changes = self._changes
        self._changes, self._tables = {}, set()
        return changes


@lru_cache(4096)
def dollar_parameters(sql: str, offset: int = 0) -> str:
    """Write `?1` as `$1`, PostgreSQL's form, with numbers increased by `offset`."""
    return _PARAMETER.sub(lambda match: f"${int(match[1]) + offset}", sql)


@lru_cache(4096)
def named_tables(sql: str) -> frozenset[str]:
    """Return the tables that a statement reads or changes."""
    return frozenset(_TABLES.findall(sql))


@lru_cache(4096)
def changed_table(sql: str) -> str | None:
    """Return the table that a statement changes; None for a SELECT or a change of the schema."""
    match = _CHANGES.match(sql)
    return match and match[1]


@lru_cache(4096)
def combine(statements: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Combine statements into one; `sizes` are their numbers of values."""
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    return _with_clauses([dollar_parameters(*each) for each in zip(statements, offsets, strict=True)])


@lru_cache(4096)
def combine_over_rows(statements: tuple[str, ...], types: tuple[tuple[str, ...], ...]) -> str:
    """Combine statements into one that runs each over rows of values of these types, given as columns."""
    offsets = [sum(map(len, types[:index])) for index in range(len(types))]
    return _with_clauses([over_rows(*each) for each in zip(statements, types, offsets, strict=True)])


def _with_clauses(statements: list[str]) -> str:
    *before, last = statements
    parts = ", ".join(f"s{index} AS ({sql})" for index, sql in enumerate(before))
    return f"WITH {parts} {last}" if parts else last


@lru_cache(4096)
def over_rows(sql: str, types: tuple[str, ...], offset: int = 0) -> str:
    """Rewrite a statement to run once for each row of values, which are given as columns.

    Each returned row begins with the number of its row of values, or with its key: see `returns_key`.
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
    """Return True if the first value identifies a row that one statement may change only once."""
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or (returns_key(sql) and "RETURNING" in sql)


@lru_cache(4096)
def returns_key(sql: str) -> bool:
    """Return True if returned rows begin with the first value instead of a row number."""
    return sql.startswith("INSERT")


@lru_cache(4096)
def sorts_rows(sql: str) -> bool:
    """Return True if the rows of values may be sorted: the statement locks existing rows and creates none."""
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or sql.endswith("FOR UPDATE")
