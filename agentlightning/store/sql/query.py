"""Filters, sort orders, pages and cursors, as SQL.

Columns are constants of this package, and values are parameters: no text of a caller becomes part of a statement.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from ...errors import InvalidInput
from ..contract import FilterLogic, SortOrder
from ..db.database import Dialect, Row, Transaction

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class CursorPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The last row of a page; the row itself may have been deleted since."""

    sort_by: str | None
    order: SortOrder
    value: _Integer | float | str | None
    """The value of the sort column."""
    key: _Integer
    """The key of the row, which orders rows of equal value."""
    total: _Integer
    """The number of all rows when the first page was read."""


def encode_cursor(position: CursorPosition) -> str:
    """Return the position as opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()


def decode_cursor(cursor: str, sort_by: str | None, order: SortOrder, kind: type) -> CursorPosition:
    """Return the position in a cursor of a list with this order and `kind` of sort value. Raises `InvalidInput`."""
    try:
        position = _decoder.decode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # includes msgspec's errors
        raise _invalid_cursor("it did not come with a page") from None
    if (position.sort_by, position.order) != (sort_by, order):
        raise _invalid_cursor("it belongs to a list with another sort order")
    if not isinstance(position.value, (kind, type(None))):
        raise _invalid_cursor("it did not come with a page")
    return position


_decoder = msgspec.json.Decoder(CursorPosition)


def _invalid_cursor(reason: str) -> InvalidInput:
    return InvalidInput(f"invalid cursor: {reason}", field="cursor")


class Sort(NamedTuple):
    """A sort expression and the type of its values."""

    column: str
    kind: type


Sorts = Mapping[str, Sort]
"""Sort expressions by field name."""


def sorts(
    of: str = "", *, texts: Sequence[str] = (), floats: Sequence[str] = (), integers: Sequence[str] = ()
) -> Sorts:
    """Return the sort expressions of columns; `of` is the prefix of the table in the statement."""
    kinds: tuple[tuple[type, Sequence[str]], ...] = ((str, texts), (float, floats), (int, integers))
    return {name: Sort(f"{of}{name}", kind) for kind, names in kinds for name in names}


class Rows(NamedTuple):
    """The rows of a page."""

    rows: Sequence[Row]
    """The last two columns are the sort value and the key."""
    total: int
    cursor: str | None


class Query:
    """One filtered and sorted page of a table, built step by step.

    `order` is the key of the table. If `source` joins tables and `table` alone determines the page, only the rows of
    the page are joined.
    """

    def __init__(self, dialect: Dialect, columns: str, source: str, *, order: str, table: str | None = None) -> None:
        self._dialect = dialect
        self._columns = columns
        self._source = source
        self._key = self._order = order
        self._sort: tuple[str | None, SortOrder] = (None, "asc")
        self._by = Sort("NULL", type(None))
        self._after: CursorPosition | None = None
        self._table = table or source
        self._always: list[str] = []
        self._filters: list[str] = []
        self._values: list[Any] = []

    def always(self, condition: str, value: Any) -> None:
        """Add a condition outside of the filter logic; `{}` is the place of the value."""
        self._always.append(condition.format(self._parameter(value)))

    def equals(self, column: str, value: Any) -> None:
        if value is not None:
            self._filters.append(f"{column} = {self._parameter(value)}")

    def contains(self, column: str, value: str | None) -> None:
        if value is not None:
            self._filters.append(self._dialect.contains.format(column=column, value=self._parameter(value)))

    def any_contains(self, texts: Sequence[str], bytes_: Sequence[str], value: str | None) -> None:
        """Require that one of the columns, of text or bytes, contains the value."""
        if value is None:
            return
        parameter = self._parameter(value)
        forms = [(self._dialect.contains, texts), (self._dialect.bytes_contain, bytes_)]
        found = [form.format(column=column, value=parameter) for form, columns in forms for column in columns]
        self._filters.append(f"({' OR '.join(found)})")

    def among(self, column: str, values: Sequence[Any] | None) -> None:
        """Require one of `values`; an empty list matches no row."""
        if values is None:
            return
        if not values:
            self._filters.append("1 = 0")
            return
        condition, parameters = self._dialect.any_of(list(dict.fromkeys(values)), len(self._values) + 1)
        self._filters.append(f"{column} {condition}")
        self._values += parameters

    def sort(self, by: str | None, order: SortOrder, columns: Sorts) -> None:
        """Sort by a field of `columns`, and by insertion order within equal values or with None."""
        self._sort = by, order
        if by is None:
            self._order += " DESC" if order == "desc" else ""
            return
        if by not in columns:
            raise InvalidInput(
                f"cannot sort by {by!r}; sort_by must be one of: {', '.join(sorted(columns))}", field="sort_by"
            )
        direction = "DESC" if order == "desc" else "ASC"
        self._by = columns[by]
        self._order = f"{self._by.column} {direction} NULLS LAST, {self._order}"

    def after(self, cursor: str) -> None:
        """Start after the page that returned `cursor`. Raises `InvalidInput`."""
        by, order = self._sort
        position = self._after = decode_cursor(cursor, by, order, self._by.kind)
        key = self._parameter(position.key)
        if by is None:
            self._always.append(f"{self._key} {_AFTER[order]} {key}")
        elif position.value is None:
            self._always.append(f"({self._by.column} IS NULL AND {self._key} > {key})")
        else:
            column, value = self._by.column, self._parameter(position.value)
            later = f"{column} {_AFTER[order]} {value} OR ({column} = {value} AND {self._key} > {key})"
            self._always.append(f"({later} OR {column} IS NULL)")

    async def page(self, transaction: Transaction, *, logic: FilterLogic, limit: int, offset: int) -> Rows:
        """Return the rows of the page, the total number of rows, and the cursor of the next page."""
        rows = await self._rows(transaction, logic, limit, offset)
        full = 0 < limit <= len(rows)
        if self._after is not None:
            total = self._after.total
        elif limit != 0 and not full and (rows or offset == 0):
            total = offset + len(rows)
        else:
            sql = f"SELECT count(*) FROM {self._table}{self._where(logic)}"
            total = (await transaction.fetch(sql, *self._values))[0][0]
        has_more = full and (self._after is not None or offset + len(rows) < total)
        return Rows(rows, total, self._cursor(rows[-1], total) if has_more else None)

    def _cursor(self, last: Row, total: int) -> str:
        (by, order), (value, key) = self._sort, last[-2:]
        return encode_cursor(CursorPosition(by, order, value, key, total))

    async def _rows(self, transaction: Transaction, logic: FilterLogic, limit: int, offset: int) -> Sequence[Row]:
        if limit == 0:
            return []
        where = self._where(logic)
        # Always with a LIMIT: SQLite accepts an OFFSET only after one.
        page = f"ORDER BY {self._order} LIMIT ?{len(self._values) + 1} OFFSET ?{len(self._values) + 2}"
        selected = f"SELECT {self._columns}, {self._by.column}, {self._key} FROM {self._source}"
        sql = f"{selected}{where} {page}"
        if self._table != self._source and limit > 0:
            keys = f"SELECT {self._key} FROM {self._table}{where} {page}"
            sql = f"{selected} WHERE {self._key} IN ({keys}) ORDER BY {self._order}"
        return await transaction.fetch(sql, *self._values, _ALL if limit < 0 else limit, offset)

    def cache_key(self) -> Hashable:
        """Return a value that is equal for queries of the same columns with the same filters."""
        return self._columns, self._source, self._where("and"), tuple(map(str, self._values))

    def _where(self, logic: FilterLogic) -> str:
        together = f" {logic.upper()} ".join(self._filters)
        conditions = [*self._always, *([f"({together})"] if together else [])]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _parameter(self, value: Any) -> str:
        self._values.append(value)
        return f"?{len(self._values)}"


_ALL = 2**62
_AFTER: dict[SortOrder, str] = {"asc": ">", "desc": "<"}


def check_page(limit: int, offset: int, logic: str = "and", order: str = "asc", cursor: str | None = None) -> None:
    """Raise `InvalidInput` for invalid page parameters."""
    if limit < -1:
        raise InvalidInput("limit must be -1 (all), 0 (none), or a number of items", field="limit")
    if offset < 0:
        raise InvalidInput("offset must not be negative", field="offset")
    if offset and cursor is not None:
        raise InvalidInput("offset cannot be combined with a cursor", field="offset")
    if logic not in ("and", "or"):
        raise InvalidInput(f"filter_logic must be 'and' or 'or', not {logic!r}", field="filter_logic")
    if order not in ("asc", "desc"):
        raise InvalidInput(f"sort_order must be 'asc' or 'desc', not {order!r}", field="sort_order")
