"""Where a page ended, for the next one to begin there: opaque to who holds it, and checked when it comes back."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from ...errors import InvalidInput
from ..contract import SortOrder

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Mark(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A page's last row in its order, which need not be there any more."""

    sort_by: str | None
    order: SortOrder
    value: _Integer | float | str | None
    """Of the field that the list is sorted by."""
    key: _Integer
    """Of the row: what decides between rows of one value."""
    total: _Integer
    """How many there were in all when the first page was read."""


def cursor_at(mark: Mark) -> str:
    """The mark as text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(mark)).decode()


def mark_at(cursor: str, sort_by: str | None, order: SortOrder, kind: type) -> Mark:
    """The mark in a cursor, for a list of this order by values of this `kind`. Raises `InvalidInput`."""
    try:
        mark = _decoder.decode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # msgspec's errors are ValueErrors too
        raise _foreign("it is not one that a page came with") from None
    if (mark.sort_by, mark.order) != (sort_by, order):
        raise _foreign("it is of a list in another order")
    if not isinstance(mark.value, (kind, type(None))):
        raise _foreign("it is not one that a page came with")
    return mark


_decoder = msgspec.json.Decoder(Mark)


def _foreign(why: str) -> InvalidInput:
    return InvalidInput(f"this cursor leads nowhere: {why}", field="cursor")
