"""Where a page ended, for the next one to begin there: opaque to who holds it, and checked when it comes back."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from ...errors import InvalidInput
from ..contract import SortOrder

Value = str | int | float | None
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A page's last row in its order, which need not be there any more."""

    sort_by: str | None
    order: SortOrder
    value: _Integer | float | str | None
    """Of the field that the list is sorted by."""
    key: _Integer
    """Of the row: what decides between rows of one value."""
    total: _Integer
    """How many there were in all when the first page was read."""


def cursor_at(place: Place) -> str:
    """The place as text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def place_at(cursor: str, sort_by: str | None, order: SortOrder, kind: type) -> Place:
    """The place that a cursor names in a list of this order, by values of this `kind`. Raises `InvalidInput`."""
    try:
        place = _decoder.decode(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # msgspec's errors are ValueErrors too
        raise _foreign("it is not one that a page came with") from None
    if (place.sort_by, place.order) != (sort_by, order):
        raise _foreign("it is of a list in another order")
    if not isinstance(place.value, (kind, type(None))):
        raise _foreign("it is not one that a page came with")
    return place


_decoder = msgspec.json.Decoder(Place)


def _foreign(why: str) -> InvalidInput:
    return InvalidInput(f"this cursor leads nowhere: {why}", field="cursor")
