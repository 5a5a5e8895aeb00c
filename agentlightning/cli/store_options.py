"""Which store a command works on: the one served at `--store URL`, or else the one in a database, `--db`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..store import LightningStore

F = TypeVar("F", bound=Callable[..., Any])

_SERVED = click.option("--store", "store_url", envvar="AGL_STORE_URL", show_envvar=True, metavar="URL")
_DATABASE = click.option(
    "--db",
    envvar="AGL_DB",
    show_envvar=True,
    default="./agl.db",
    show_default=True,
    help="The store, where no --store is.",
)


def store_options(command: F) -> F:
    """`command`, with the parameters `store_url` and `db`."""
    return _SERVED(_DATABASE(command))


def store_at(url: str | None, db: str) -> LightningStore:
    """The store served at `url`, or else the one in a database."""
    from ..store import LightningStoreClient, open_store

    return LightningStoreClient(url, give_up_after=10) if url else open_store(db)
