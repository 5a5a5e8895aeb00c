"""Versions of clients and stores, which they exchange in the header `X-Agentlightning-Version`.

A client and a store work together if their versions differ by at most one minor version. If they differ by more, the
store refuses the client's requests. If the versions differ at all, the client names both in every error that this
difference may have caused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Final

from ...errors import AgentLightningError, InvalidInput, NotFound, WrongMethod

VERSION_HEADER: Final = "X-Agentlightning-Version"

_HEADER = VERSION_HEADER.lower().encode()
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.[0-9A-Za-z.+-]{1,50})?", re.ASCII)


@cache
def own_version() -> str:
    """Return the version of this package."""
    return version("agentlightning")


def check_client_version(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise `InvalidInput` if the headers name a malformed client version, or one that does not work with this store.

    Clients other than `LightningStoreClient` need not name a version.
    """
    for name, value in headers:
        if name == _HEADER and (refusal := _refusal(value)):
            raise InvalidInput(refusal, field=VERSION_HEADER)


def name_versions(error: AgentLightningError, store_version: str | None) -> AgentLightningError:
    """Append both versions to the error's message if a difference between them may have caused it. Return the error.

    For example, a store of another version may lack an operation or a parameter.
    """
    if store_version != own_version() and (
        isinstance(error, (NotFound, WrongMethod, InvalidInput)) or type(error) is AgentLightningError
    ):
        store = f"version {store_version}" if store_version else "of a version that it does not name"
        error.args = (f"{error} (the store is {store}, and this client is version {own_version()})",)
    return error


@lru_cache(64)
def _refusal(client: bytes) -> str | None:
    given, own = _VERSION.fullmatch(client.decode("latin-1")), _VERSION.match(own_version())
    if given is None or own is None:
        return f"the header {VERSION_HEADER} must be a version such as {own_version()}"
    if given[1] == own[1] and abs(int(given[2]) - int(own[2])) <= 1:
        return None
    return (
        f"this store is version {own_version()} of agentlightning and the client is version {given[0]}; they work "
        f"together only if they differ by at most one minor version: install the same version on both"
    )
