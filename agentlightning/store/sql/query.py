"""Filters, sort orders and pages, as SQL.

Columns come from lists written here, values only as parameters: nothing a caller sends becomes part of a statement.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import InvalidInput
from ..contract import FilterLogic, SortOrder
from ..db.database import Dialect, Row, Transaction
from .pagination import Mark, cursor_at, mark_at


class Sort(NamedTuple):
    """What a list can be sorted by."""

    column: str
    kind: type


Sorts = Mapping[str, Sort]
"""By the name of the field."""


def sorts(
    of: str = "", *, texts: Sequence[str] = (), floats: Sequence[str] = (), integers: Sequence[str] = ()
) -> Sorts:
    """Columns that a list can be sorted by, each under its own name; `of` is the table's name in the statement."""
    kinds: tuple[tuple[type, Sequence[str]], ...] = ((str, texts), (float, floats), (int, integers))
    return {name: Sort(f"{of}{name}", kind) for kind, names in kinds for name in names}


class Rows(NamedTuple):
    """A page's rows."""

    rows: Sequence[Row]
    """Each with the value it is sorted by and its key at the end."""
    total: int
    cursor: str | None


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
        self._sort: tuple[str | None, SortOrder] = (None, "asc")
        self._by = Sort("NULL", type(None))
        self._after: Mark | None = None
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

    def sort(self, by: str | None, order: SortOrder, columns: Sorts) -> None:
        """By a field of `columns`; rows that are equal in it, or all of them with None, in the order they came."""
        self._sort = by, order
        if by is None:
            self._order += " DESC" if order == "desc" else ""
            return
        if by not in columns:
            raise InvalidInput(
                f"cannot sort by {by!r}; sort_by is one of: {', '.join(sorted(columns))}", field="sort_by"
            )
        direction = "DESC" if order == "desc" else "ASC"
        self._by = columns[by]
        self._order = f"{self._by.column} {direction} NULLS LAST, {self._order}"

    def after(self, cursor: str) -> None:
        """Only what comes behind the page that came with `cursor`. Raises `InvalidInput` where none did."""
        by, order = self._sort
        mark = self._after = mark_at(cursor, by, order, self._by.kind)
        key = self._parameter(mark.key)
        if by is None:
            self._always.append(f"{self._key} {_BEHIND[order]} {key}")
        elif mark.value is None:
            self._always.append(f"({self._by.column} IS NULL AND {self._key} > {key})")
        else:
            column, value = self._by.column, self._parameter(mark.value)
            behind = f"{column} {_BEHIND[order]} {value} OR ({column} = {value} AND {self._key} > {key})"
            self._always.append(f"({behind} OR {column} IS NULL)")

    async def page(self, transaction: Transaction, *, logic: FilterLogic, limit: int, offset: int) -> Rows:
        """The rows of the page, how many there are in all, and where the next page begins."""
        rows = await self._rows(transaction, logic, limit, offset)
        full = 0 < limit <= len(rows)
        if self._after is not None:
            total = self._after.total
        elif limit != 0 and not full and (rows or offset == 0):
            total = offset + len(rows)
        else:
            sql = f"SELECT count(*) FROM {self._table}{self._where(logic)}"
            total = (await transaction.fetch(sql, *self._values))[0][0]
        goes_on = full and (self._after is not None or offset + len(rows) < total)
        return Rows(rows, total, self._cursor(rows[-1], total) if goes_on else None)

    def _cursor(self, last: Row, total: int) -> str:
        (by, order), (value, key) = self._sort, last[-2:]
        return cursor_at(Mark(by, order, value, key, total))

    async def _rows(self, transaction: Transaction, logic: FilterLogic, limit: int, offset: int) -> Sequence[Row]:
        if limit == 0:
            return []
        where = self._where(logic)
        # Never without a LIMIT: it is what lets SQLite take an OFFSET.
        page = f"ORDER BY {self._order} LIMIT ?{len(self._values) + 1} OFFSET ?{len(self._values) + 2}"
        selected = f"SELECT {self._columns}, {self._by.column}, {self._key} FROM {self._source}"
        sql = f"{selected}{where} {page}"
        if self._table != self._source and limit > 0:
            keys = f"SELECT {self._key} FROM {self._table}{where} {page}"
            sql = f"{selected} WHERE {self._key} IN ({keys}) ORDER BY {self._order}"
        return await transaction.fetch(sql, *self._values, _ALL if limit < 0 else limit, offset)

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
_BEHIND: dict[SortOrder, str] = {"asc": ">", "desc": "<"}


def check_page(limit: int, offset: int, logic: str = "and", order: str = "asc", cursor: str | None = None) -> None:
    """Raise `InvalidInput` for what cannot be a page."""
    if limit < -1:
        raise InvalidInput("limit is -1 for all, 0 for none, or a number of items", field="limit")
    if offset < 0:
        raise InvalidInput("offset cannot be negative", field="offset")
    if offset and cursor is not None:
        raise InvalidInput("a cursor says where the page begins; no offset goes with it", field="offset")
    if logic not in ("and", "or"):
        raise InvalidInput(f"filter_logic is 'and' or 'or', not {logic!r}", field="filter_logic")
    if order not in ("asc", "desc"):
        raise InvalidInput(f"sort_order is 'asc' or 'desc', not {order!r}", field="sort_order")
