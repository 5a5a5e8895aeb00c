"""SQL for lists of stored objects: filters, sort orders, pages and cursors.

Column names are constants in this package, and values are passed as SQL parameters. Text from a client therefore never
becomes part of a SQL statement.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from ...concurrency import map_in_slices
from ...errors import InvalidInput
from ...types import PaginatedResult
from ..contract import FilterLogic, SortOrder
from ..db.database import Database, Row, Transaction

T = TypeVar("T")

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class CursorPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The contents of a cursor: the position of the last row on a page.

    The position remains valid if that row is deleted.
    """

    sort_by: str | None
    order: SortOrder
    value: _Integer | float | str | None
    """The row's value in the sort column, or None if the value is missing or no sort column was requested."""
    key: _Integer
    """The row's ordinal. Rows with the same value in the sort column are ordered by their ordinals."""
    total: _Integer
    """The total number of rows on all pages, counted when the first page was read."""


def encode_cursor(position: CursorPosition) -> str:
    """Encode a position as a cursor, whose format is opaque to clients."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()


def decode_cursor(cursor: str, sort_by: str | None, order: SortOrder, kind: type) -> CursorPosition:
    """Return the position that a cursor contains.

    `kind` is the type of the values in the sort column. Raises `InvalidInput` if the cursor is malformed or belongs to
    a list with a different sort order.
    """
    try:
        position = _decoder.decode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # msgspec's decoding errors are ValueErrors too
        raise _invalid_cursor("it was not returned with a page") from None
    if (position.sort_by, position.order) != (sort_by, order):
        raise _invalid_cursor("it belongs to a list with a different sort order")
    if not isinstance(position.value, (kind, type(None))):
        raise _invalid_cursor("it was not returned with a page")
    return position


_decoder = msgspec.json.Decoder(CursorPosition)


def _invalid_cursor(reason: str) -> InvalidInput:
    return InvalidInput(f"invalid cursor: {reason}", field="cursor")


class Sort(NamedTuple):
    """A SQL expression to sort by, and the Python type of its values."""

    column: str
    kind: type


Sorts = Mapping[str, Sort]
"""The supported sort expressions, keyed by the field name that a client passes as `sort_by`."""


def sorts(
    of: str = "", *, texts: Sequence[str] = (), floats: Sequence[str] = (), integers: Sequence[str] = ()
) -> Sorts:
    """Return sort expressions for columns with text, float and integer values.

    `of` is the prefix that the columns have in the SQL statement, such as `a.`.
    """
    kinds: tuple[tuple[type, Sequence[str]], ...] = ((str, texts), (float, floats), (int, integers))
    return {name: Sort(f"{of}{name}", kind) for kind, names in kinds for name in names}


@dataclass(frozen=True)
class PageOptions:
    """Filter, sort and page options of the contract's query operations. Raises `InvalidInput` for an invalid option."""

    filter_logic: FilterLogic = "and"
    sort_by: str | None = None
    sort_order: SortOrder = "asc"
    limit: int = -1
    offset: int = 0
    cursor: str | None = None
    max_bytes: int | None = None
    """Maximum total size of the rows on the page in bytes, or None for no limit. Set by the HTTP server.

    A single row may exceed the limit. It is then the only row on its page.
    """

    def __post_init__(self) -> None:
        if self.limit < -1:
            raise InvalidInput("limit must be -1 (all), 0 (none), or a number of items", field="limit")
        if self.offset < 0:
            raise InvalidInput("offset must not be negative", field="offset")
        if self.offset and self.cursor is not None:
            raise InvalidInput("offset cannot be combined with a cursor", field="offset")
        if self.filter_logic not in ("and", "or"):
            raise InvalidInput(f"filter_logic must be 'and' or 'or', not {self.filter_logic!r}", field="filter_logic")
        if self.sort_order not in ("asc", "desc"):
            raise InvalidInput(f"sort_order must be 'asc' or 'desc', not {self.sort_order!r}", field="sort_order")


class Query:
    """A query for one page of filtered and sorted rows. Add all filters before you call `page`.

    `source` is the table or join that contains the `columns`, and `key` is the column with the ordinal of each row.
    `size` is a SQL expression for the size of a row's large columns, in bytes. If `source` is a join, and if the
    filters and the sort order use columns of only one of its tables, pass that table as `table`. Then only the rows on
    the page are joined with the other tables.
    """

    def __init__(
        self,
        database: Database,
        columns: str,
        source: str,
        sorts: Sorts,
        options: dict[str, Any],
        *,
        size: str,
        key: str = "ordinal",
        table: str | None = None,
    ) -> None:
        self._database = database
        self._dialect = database.dialect
        self._columns = columns
        self._size = size
        self._source = source
        self._table = table or source
        self._key = key
        self._always: list[str] = []
        self._filters: list[str] = []
        self._values: list[Any] = []
        self._options = PageOptions(**options)
        self._by, self._order = _sort(self._options, sorts, key)
        self._after = None if self._options.cursor is None else self._continue_after(self._options.cursor)

    def always(self, condition: str, value: Any) -> None:
        """Add a condition that all rows must meet, even if the filter logic is `or`. Its `{}` stands for `value`."""
        self._always.append(condition.format(self._parameter(value)))

    def equals(self, column: str, value: Any) -> None:
        if value is not None:
            self._filters.append(f"{column} = {self._parameter(value)}")

    def contains(self, column: str, value: str | None) -> None:
        if value is not None:
            self._filters.append(self._dialect.contains.format(column=column, value=self._parameter(value)))

    def any_contains(self, texts: Sequence[str], bytes_: Sequence[str], value: str | None) -> None:
        """Add a filter for rows in which at least one of the text or bytes columns contains `value`.

        If `value` is None, do not add a filter.
        """
        if value is None:
            return
        parameter = self._parameter(value)
        forms = [(self._dialect.contains, texts), (self._dialect.bytes_contain, bytes_)]
        found = [form.format(column=column, value=parameter) for form, columns in forms for column in columns]
        self._filters.append(f"({' OR '.join(found)})")

    def among(self, column: str, values: Sequence[Any] | None) -> None:
        """Add a filter for rows with one of `values` in the column. An empty list does not match any row.

        If `values` is None, do not add a filter.
        """
        if values is None:
            return
        if not values:
            self._filters.append("1 = 0")
            return
        condition, parameters = self._dialect.any_of(list(dict.fromkeys(values)), len(self._values) + 1)
        self._filters.append(f"{column} {condition}")
        self._values += parameters

    async def page(self, convert: Callable[[Row], T], *, short: bool = False) -> PaginatedResult[T]:
        """Read the page, and convert each of its rows with `convert`.

        The result also contains the total number of rows on all pages, and a cursor if there may be a next page. Set
        `short` if the query takes only microseconds (see `Database.read`).
        """
        page = await self._database.read(partial(self._read, most=SMALL_PAGE_BYTES), short=True) if short else None
        if page is None:
            page = await self._database.read(self._read)
        assert page is not None
        rows, total, has_more = page
        return PaginatedResult[Any].model_construct(
            items=await map_in_slices(convert, rows),
            limit=self._options.limit,
            offset=self._options.offset,
            total=total,
            cursor=self._cursor(rows[-1], total) if has_more else None,
        )

    def cache_key(self) -> Hashable:
        """Return a key that is equal for all queries with the same columns, filters and options."""
        return self._columns, self._source, self._where(), tuple(map(str, self._values)), self._options

    def _continue_after(self, cursor: str) -> CursorPosition:
        """Limit the query to rows after the position in `cursor`, and return this position.

        Raises `InvalidInput` if the cursor is invalid.
        """
        by, order = self._options.sort_by, self._options.sort_order
        position = decode_cursor(cursor, by, order, self._by.kind)
        key = self._parameter(position.key)
        if by is None:
            self._always.append(f"{self._key} {_AFTER[order]} {key}")
        elif position.value is None:
            self._always.append(f"({self._by.column} IS NULL AND {self._key} > {key})")
        else:
            column, value = self._by.column, self._parameter(position.value)
            later = f"{column} {_AFTER[order]} {value} OR ({column} = {value} AND {self._key} > {key})"
            self._always.append(f"({later} OR {column} IS NULL)")
        return position

    def _cursor(self, last: Row, total: int) -> str:
        value, key = last[-2:]
        return encode_cursor(CursorPosition(self._options.sort_by, self._options.sort_order, value, key, total))

    async def _read(self, transaction: Transaction, most: int | None = None) -> _PageRows | None:
        """Read the rows on the page. If their size is limited and exceeds `most` bytes, return None instead."""
        limit, offset, max_bytes = self._options.limit, self._options.offset, self._options.max_bytes
        columns = self._columns if max_bytes is None else self._size
        found: Sequence[Row] = await self._rows(transaction, columns, limit, offset) if limit else []
        total = await self._total(transaction, len(found))
        has_more = 0 < limit <= len(found) and (self._after is not None or offset + len(found) < total)
        if max_bytes is None:
            return _PageRows(found, total, has_more)
        fitting = found[: count_fitting([row[0] for row in found], max_bytes)]
        if most is not None and sum(row[0] for row in fitting) > most:
            return None
        rows = await self._rows_by_key(transaction, [row[-1] for row in fitting])
        return _PageRows(rows, total, has_more or len(fitting) < len(found))

    async def _total(self, transaction: Transaction, found: int) -> int:
        """Return the number of rows on all pages. `found` is the number of rows found within the page's `limit`."""
        limit, offset = self._options.limit, self._options.offset
        if self._after is not None:
            return self._after.total
        if limit != 0 and found != limit and (found or offset == 0):
            return offset + found
        return (await transaction.fetch(f"SELECT count(*) FROM {self._table}{self._where()}", *self._values))[0][0]

    async def _rows(self, transaction: Transaction, columns: str, limit: int, offset: int) -> Sequence[Row]:
        where = self._where()
        # Always use a LIMIT, because SQLite accepts an OFFSET only after a LIMIT.
        page = f"ORDER BY {self._order} LIMIT ?{len(self._values) + 1} OFFSET ?{len(self._values) + 2}"
        selected = f"SELECT {columns}, {self._by.column}, {self._key} FROM {self._source}"
        sql = f"{selected}{where} {page}"
        if self._table != self._source and limit > 0:
            keys = f"SELECT {self._key} FROM {self._table}{where} {page}"
            sql = f"{selected} WHERE {self._key} IN ({keys}) ORDER BY {self._order}"
        return await transaction.fetch(sql, *self._values, _ALL if limit < 0 else limit, offset)

    async def _rows_by_key(self, transaction: Transaction, keys: Sequence[int]) -> Sequence[Row]:
        """Return the rows with these keys, in the order of the keys."""
        rows: dict[int, Row] = {}
        for start in range(0, len(keys), _KEYS_PER_STATEMENT):
            condition, values = self._dialect.any_of(keys[start : start + _KEYS_PER_STATEMENT], 1)
            selected = f"SELECT {self._columns}, {self._by.column}, {self._key} FROM {self._source}"
            found = await transaction.fetch(f"{selected} WHERE {self._key} {condition}", *values)
            rows |= {row[-1]: row for row in found}
        return [rows[key] for key in keys]

    def _where(self) -> str:
        together = f" {self._options.filter_logic.upper()} ".join(self._filters)
        conditions = [*self._always, *([f"({together})"] if together else [])]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _parameter(self, value: Any) -> str:
        self._values.append(value)
        return f"?{len(self._values)}"


class _PageRows(NamedTuple):
    """The rows on a page, each followed by its value in the sort column and its key."""

    rows: Sequence[Row]
    total: int
    """Number of rows on all pages."""
    has_more: bool
    """True if there may be a next page."""


def count_fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """Return the number of items at the start of a list that fit in `max_bytes`, but at least 1 if there are any."""
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if total > max_bytes:
            return max(index, 1)
    return len(sizes)


SMALL_PAGE_BYTES = 256 * 1024
"""Maximum total size, in bytes, of a page's rows that are read in the event loop's thread, if the size is limited."""
_KEYS_PER_STATEMENT = 1_000
_ALL = 2**62
"""A LIMIT that does not exclude any rows."""
_AFTER: dict[SortOrder, str] = {"asc": ">", "desc": "<"}


def _sort(options: PageOptions, sorts: Sorts, key: str) -> tuple[Sort, str]:
    """Return the sort expression and the list for the ORDER BY clause. Rows with equal values are sorted by `key`."""
    by, direction = options.sort_by, options.sort_order.upper()
    if by is None:
        return Sort("NULL", type(None)), f"{key} {direction}"
    if by not in sorts:
        names = ", ".join(sorted(sorts))
        raise InvalidInput(f"cannot sort by {by!r}; sort_by must be one of: {names}", field="sort_by")
    return sorts[by], f"{sorts[by].column} {direction} NULLS LAST, {key}"
