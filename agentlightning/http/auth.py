"""Authentication helpers for HTTP servers: loopback hosts, token comparison, and the Host and Origin of a request."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping

from ..errors import InvalidInput

Headers = Mapping[bytes, bytes]
"""A request's headers by lower-case name."""

MIN_TOKEN_LENGTH = 16
"""Characters: 128 bits even if each of them carries 8."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None, *, server: str, remedy: str) -> None:
    """Raise `InvalidInput` for a server that other machines could reach without a token, or with a weak one."""
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InvalidInput(f"the token is too short: it needs {MIN_TOKEN_LENGTH} characters; {remedy}", field="token")
    if token is None and not is_loopback(host):
        raise InvalidInput(
            f"{host} is reachable from other machines, so the {server} requires a token; {remedy}", field="token"
        )


def matches_token(given: str, tokens: Collection[str]) -> bool:
    """Return whether a token from a header is one of `tokens`; each comparison takes constant time."""
    return any(hmac.compare_digest(given.encode("latin-1"), token.encode()) for token in tokens)


def bearer_token(headers: Headers) -> str | None:
    """Return the token of the Authorization header, or None if its scheme is not Bearer."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_allowed_host(headers: Headers, allowed: Collection[str]) -> bool:
    """Return whether the Host header names this machine's loopback interface or one of `allowed`."""
    host = headers.get(b"host", b"").decode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name in allowed or is_loopback(name)


def is_cross_site(headers: Headers) -> bool:
    """Return whether a browser sent the request for a page of another site, or of another origin of this site."""
    return headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
