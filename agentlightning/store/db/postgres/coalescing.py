"""Several statements as one: what saves a database with a round trip for each statement most of them.

Changes of different tables become one, `WITH s0 AS (UPDATE …), s1 AS (INSERT …) UPDATE …`. All parts of it see the
database as it was before, so no two of them may touch one table. And a statement that is wanted many times, with other
values each time, becomes one over all the values: `UPDATE … FROM unnest($1::text[], $2::float8[]) …`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

Values = Sequence[Any]
Changes = dict[str, list[Values]]
"""Statements that change different tables, in order, and the values that each is wanted with."""

_CHANGES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_NAMES_ITS_TABLES = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_TABLES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
_PARAMETER = re.compile(r"\?(\d+)")
_SELECT = re.compile(r"SELECT (?!.*LIMIT \?).*")
_INSERT = re.compile(
    r"(INSERT INTO \w+ \((\w+)[^()]*\)) VALUES \((.*?)\)((?: ON CONFLICT .*?)?)((?: RETURNING (\w+).*)?)"
)
_UPDATE = re.compile(r"(UPDATE \w+ SET .*) (WHERE \w+ = \?1(?: AND [^()?]*?)?)(?: RETURNING ([^()]*))?")


class HeldBack:
    """Changes that wait to be sent together: those whose rows nobody has looked at yet."""

    def __init__(self) -> None:
        self._changes: Changes = {}
        self._tables: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._changes)

    def concern(self, sql: str) -> bool:
        """`sql` looks at what these change, or may be about anything, as `ALTER TABLE …` is: so they go first."""
        is_apart = _NAMES_ITS_TABLES.match(sql) and self._tables.isdisjoint(tables(sql))
        return bool(self._changes) and not is_apart

    def add(self, sql: str, values: list[Values]) -> None:
        """A change, once with each of `values`."""
        if values:
            self._changes[sql] = values
            self._tables.add(str(changed_table(sql)))

    def taken(self) -> Changes:
        """All of them; none are held back then."""
        changes = self._changes
        self._changes, self._tables = {}, set()
        return changes


@lru_cache(4096)
def dollars(sql: str, offset: int = 0) -> str:
    """`?1` as PostgreSQL writes it, `$1`; counted on from `offset`."""
    return _PARAMETER.sub(lambda match: f"${int(match[1]) + offset}", sql)


@lru_cache(4096)
def tables(sql: str) -> frozenset[str]:
    """The tables that a statement reads or changes, if it is not about the schema."""
    return frozenset(_TABLES.findall(sql))


@lru_cache(4096)
def changed_table(sql: str) -> str | None:
    """The table that a statement changes; None for a SELECT, or for what changes the schema."""
    match = _CHANGES.match(sql)
    return match and match[1]


@lru_cache(4096)
def together(statements: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """The statements as one; `sizes` says how many values each takes."""
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    return _parts([dollars(sql, offset) for sql, offset in zip(statements, offsets, strict=True)])


@lru_cache(4096)
def together_for_many(statements: tuple[str, ...], types: tuple[tuple[str, ...], ...]) -> str:
    """The statements as one, each for many rows of values of these types, which are given as columns."""
    offsets = [sum(map(len, types[:index])) for index in range(len(types))]
    return _parts([for_many(*each) for each in zip(statements, types, offsets, strict=True)])


def _parts(statements: list[str]) -> str:
    *before, last = statements
    parts = ", ".join(f"s{index} AS ({sql})" for index, sql in enumerate(before))
    return f"WITH {parts} {last}" if parts else last


@lru_cache(4096)
def for_many(sql: str, types: tuple[str, ...], offset: int = 0) -> str:
    """The statement once for each of many values, which are given as columns.

    The rows that it answers begin with the number of those values, or are known by them: see `answers_by_key`.
    """
    arrays = ", ".join(f"${offset + index}::{name}[]" for index, name in enumerate(types, 1))
    names = "".join(f"p{index}, " for index in range(1, len(types) + 1))
    given = f"unnest({arrays}) WITH ORDINALITY AS v({names}n)"
    if insert := _INSERT.fullmatch(sql):
        return f"{insert[1]} SELECT {_of_each(insert[3])} FROM {given} ORDER BY v.n{insert[4]}{insert[5]}"
    if update := _UPDATE.fullmatch(sql):
        answers = f" RETURNING v.n, {update[3]}" if update[3] else ""
        return f"{_of_each(update[1])} FROM {given} {_of_each(update[2])}{answers}"
    return f"SELECT v.n, q.* FROM {given} CROSS JOIN LATERAL ({_of_each(sql)}) q"


def _of_each(sql: str) -> str:
    return _PARAMETER.sub(r"v.p\1", sql)


@lru_cache(4096)
def suits_many(sql: str) -> bool:
    """`for_many` can say it."""
    if insert := _INSERT.fullmatch(sql):
        return insert[6] in (None, insert[2]) and "?" not in insert[4]
    return bool(_UPDATE.fullmatch(sql) or _SELECT.fullmatch(sql))


@lru_cache(4096)
def once_a_row(sql: str) -> bool:
    """Its first value says which row it is about, and two of them with the same may not be one statement."""
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or (answers_by_key(sql) and "RETURNING" in sql)


@lru_cache(4096)
def answers_by_key(sql: str) -> bool:
    """The rows that it answers begin with its first value, not with a number."""
    return sql.startswith("INSERT")


@lru_cache(4096)
def in_any_order(sql: str) -> bool:
    """It locks rows that are there already, and makes none."""
    return sql.startswith("UPDATE") or "DO UPDATE" in sql or sql.endswith("FOR UPDATE")
