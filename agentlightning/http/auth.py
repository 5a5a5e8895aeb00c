"""Authentication helpers for HTTP servers: loopback hosts, token comparison, and the Host and Origin of a request."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from functools import lru_cache

from ..errors import InvalidInput

Headers = Mapping[bytes, bytes]
"""A request's headers by lowercase name."""

MIN_TOKEN_LENGTH = 16
"""Minimum number of characters in a token. 16 characters contain at most 128 bits."""


def is_loopback(host: str) -> bool:
    """Return True if `host` is reachable only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None, *, server: str, remedy: str) -> None:
    """Raise `InvalidInput` if other machines could reach the server without a token, or if the token is too short."""
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InvalidInput(
            f"the token is too short: it needs at least {MIN_TOKEN_LENGTH} characters; {remedy}", field="token"
        )
    if token is None and not is_loopback(host):
        raise InvalidInput(
            f"{host} is reachable from other machines, so the {server} requires a token; {remedy}", field="token"
        )


def matches_token(given: str, tokens: Collection[str]) -> bool:
    """Return True if a token from a header is one of `tokens`. Each comparison takes constant time."""
    return any(hmac.compare_digest(given.encode("latin-1"), token.encode()) for token in tokens)


def bearer_token(headers: Headers) -> str | None:
    """Return the token in the Authorization header, or None if the scheme is not Bearer."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


@lru_cache(256)
def is_allowed_host(host: bytes | None, allowed: frozenset[str]) -> bool:
    """Return True if a Host header is a loopback name or address, or one of `allowed`."""
    text = (host or b"").decode("latin-1")
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return name in allowed or is_loopback(name)


CROSS_SITE = frozenset({b"cross-site", b"same-site"})
"""Values of Sec-Fetch-Site in requests that a browser sends from a page on another site or origin."""
