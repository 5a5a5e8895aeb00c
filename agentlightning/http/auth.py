"""Access checks for HTTP servers: loopback hosts, tokens, Host headers, and requests from other sites."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from functools import lru_cache

from ..errors import InvalidInput

Headers = Mapping[bytes, bytes]
"""The headers of a request, by lowercase name."""

MIN_TOKEN_LENGTH = 16
"""Minimum number of characters in a token. 16 one-byte characters hold at most 128 bits of entropy."""


def is_loopback(host: str) -> bool:
    """Return True if `host` is localhost or a loopback address, which only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None, *, server: str, remedy: str) -> None:
    """Raise `InvalidInput` if other machines could reach the server without a token, or if the token is too short.

    `server` and `remedy` are used in the error message.
    """
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InvalidInput(
            f"the token is too short: it needs at least {MIN_TOKEN_LENGTH} characters; {remedy}", field="token"
        )
    if token is None and not is_loopback(host):
        raise InvalidInput(
            f"{host} is reachable from other machines, so the {server} requires a token; {remedy}", field="token"
        )


def matches_token(given: str, tokens: Collection[str]) -> bool:
    """Return True if `given`, a token from a request header, is one of `tokens`. Each comparison is constant-time."""
    return any(hmac.compare_digest(given.encode("latin-1"), token.encode()) for token in tokens)


def bearer_token(headers: Headers) -> str | None:
    """Return the bearer token in the Authorization header, or None if there is none."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


@lru_cache(256)
def is_allowed_host(host: bytes | None, allowed: frozenset[str]) -> bool:
    """Return True if the host in a Host header is localhost, a loopback address, or one of `allowed`."""
    text = (host or b"").decode("latin-1")
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return name in allowed or is_loopback(name)


CROSS_SITE = frozenset({b"cross-site", b"same-site"})
"""Values of the Sec-Fetch-Site header that browsers send with requests from a page on another site or origin."""
