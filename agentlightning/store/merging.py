"""Several statements as one: what saves a database with a round trip for each statement most of them.

Changes whose rows nobody reads are held back until a statement looks at a table that they change, or the body ends;
they then go together, as `WITH s0 AS (UPDATE …), s1 AS (INSERT …) UPDATE …`. All parts of such a statement see the
database as it was before it, so no two of them may touch one table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_CHANGES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_TABLES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
_PARAMETER = re.compile(r"\?(\d+)")


class HeldBack:
    """Changes that wait to be sent together."""

    def __init__(self) -> None:
        self._statements: list[str] = []
        self._values: list[Any] = []
        self._sizes: list[int] = []
        self._tables: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._statements)

    def concern(self, sql: str) -> bool:
        """`sql` looks at what these change, so they go first."""
        return bool(self._statements) and not self._tables.isdisjoint(tables(sql))

    def add(self, sql: str, values: Sequence[Any]) -> None:
        self._statements.append(sql)
        self._values += values
        self._sizes.append(len(values))
        self._tables.add(str(changed_table(sql)))

    def taken(self) -> tuple[str, list[Any]]:
        """All of them as one statement with its values; none are held back then."""
        merged = merge(tuple(self._statements), tuple(self._sizes)), self._values
        self.__init__()
        return merged


@lru_cache(4096)
def dollars(sql: str, offset: int = 0) -> str:
    """`?1` as PostgreSQL writes it, `$1`; counted on from `offset`."""
    return _PARAMETER.sub(lambda match: f"${int(match[1]) + offset}", sql)


@lru_cache(4096)
def tables(sql: str) -> frozenset[str]:
    """The tables that a statement reads or changes."""
    return frozenset(_TABLES.findall(sql))


@lru_cache(4096)
def changed_table(sql: str) -> str | None:
    """The table that a statement changes; None for a SELECT, or for what changes the schema."""
    match = _CHANGES.match(sql)
    return match and match[1]


@lru_cache(4096)
def merge(statements: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """The statements as one; `sizes` says how many values each takes."""
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    *before, last = [dollars(sql, offset) for sql, offset in zip(statements, offsets, strict=True)]
    parts = ", ".join(f"s{index} AS ({sql})" for index, sql in enumerate(before))
    return f"WITH {parts} {last}" if parts else last
