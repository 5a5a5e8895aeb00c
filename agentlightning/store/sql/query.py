"""Filters, sort orders and pages, as SQL.

Columns come from lists written here, values only as parameters: nothing a caller sends becomes part of a statement.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ...errors import InvalidInput
from ..contract import FilterLogic, SortOrder
from ..database import Dialect, Row, Transaction


class Query:
    """One filtered, sorted page of a table, built up piece by piece.

    Where `source` joins tables, but `table` alone decides what is on the page, only the page's own rows are joined;
    `order` names the table's key.
    """

    def __init__(self, dialect: Dialect, columns: str, source: str, *, order: str, table: str | None = None) -> None:
        self._dialect = dialect
        self._columns = columns
        self._source = source
        self._key = self._order = order
        self._table = table or source
        self._always: list[str] = []
        self._filters: list[str] = []
        self._values: list[Any] = []

    def always(self, condition: str, value: Any) -> None:
        """A condition that holds whatever the filter logic says; `{}` stands for the value."""
        self._always.append(condition.format(self._parameter(value)))

    def equals(self, column: str, value: Any) -> None:
        if value is not None:
            self._filters.append(f"{column} = {self._parameter(value)}")

    def contains(self, column: str, value: str | None) -> None:
        if value is not None:
            self._filters.append(self._dialect.contains.format(column=column, value=self._parameter(value)))

    def any_contains(self, texts: Sequence[str], bytes_: Sequence[str], value: str | None) -> None:
        """One of these columns, of text or of bytes, contains it."""
        if value is None:
            return
        parameter = self._parameter(value)
        forms = [(self._dialect.contains, texts), (self._dialect.bytes_contain, bytes_)]
        found = [form.format(column=column, value=parameter) for form, columns in forms for column in columns]
        self._filters.append(f"({' OR '.join(found)})")

    def among(self, column: str, values: Sequence[Any] | None) -> None:
        """One of `values`; of none, nothing fits."""
        if values is None:
            return
        if not values:
            self._filters.append("1 = 0")
            return
        condition, parameters = self._dialect.any_of(list(dict.fromkeys(values)), len(self._values) + 1)
        self._filters.append(f"{column} {condition}")
        self._values += parameters

    def sort(self, by: str | None, order: SortOrder, columns: dict[str, str]) -> None:
        """By a field of `columns`; rows that are equal in it, or all of them with None, in the order they came."""
        if by is None:
            self._order += " DESC" if order == "desc" else ""
            return
        if by not in columns:
            raise InvalidInput(
                f"cannot sort by {by!r}; sort_by is one of: {', '.join(sorted(columns))}", field="sort_by"
            )
        direction = "DESC" if order == "desc" else "ASC"
        self._order = f"{columns[by]} {direction} NULLS LAST, {self._order}"

    async def page(
        self, transaction: Transaction, *, logic: FilterLogic, limit: int, offset: int
    ) -> tuple[Sequence[Row], int]:
        """The rows of the page, and how many there are in all."""
        where = self._where(logic)
        rows: Sequence[Row] = []
        if limit != 0:
            # Never without a LIMIT: it is what lets SQLite take an OFFSET.
            page = f"ORDER BY {self._order} LIMIT ?{len(self._values) + 1} OFFSET ?{len(self._values) + 2}"
            sql = f"SELECT {self._columns} FROM {self._source}{where} {page}"
            if self._table != self._source and limit > 0:
                keys = f"SELECT {self._key} FROM {self._table}{where} {page}"
                sql = f"SELECT {self._columns} FROM {self._source} WHERE {self._key} IN ({keys}) ORDER BY {self._order}"
            rows = await transaction.fetch(sql, *self._values, _ALL if limit < 0 else limit, offset)
        if (limit < 0 or len(rows) < limit) and (rows or offset == 0) and limit != 0:
            return rows, offset + len(rows)
        counted = await transaction.fetch(f"SELECT count(*) FROM {self._table}{where}", *self._values)
        return rows, counted[0][0]

    def question(self, logic: FilterLogic) -> Hashable:
        """The same for queries that find the same in the same order."""
        return self._columns, self._source, self._where(logic), self._order, tuple(map(str, self._values))

    def _where(self, logic: FilterLogic) -> str:
        together = f" {logic.upper()} ".join(self._filters)
        conditions = [*self._always, *([f"({together})"] if together else [])]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _parameter(self, value: Any) -> str:
        self._values.append(value)
        return f"?{len(self._values)}"


_ALL = 2**62


def check_page(limit: int, offset: int, logic: str = "and", order: str = "asc") -> None:
    """Raise `InvalidInput` for what cannot be a page."""
    if limit < -1:
        raise InvalidInput("limit is -1 for all, 0 for none, or a number of items", field="limit")
    if offset < 0:
        raise InvalidInput("offset cannot be negative", field="offset")
    if logic not in ("and", "or"):
        raise InvalidInput(f"filter_logic is 'and' or 'or', not {logic!r}", field="filter_logic")
    if order not in ("asc", "desc"):
        raise InvalidInput(f"sort_order is 'asc' or 'desc', not {order!r}", field="sort_order")
