"""Who may ask, and for which attempt: addresses, tokens, and requests that web pages send."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import Scope

from .. import payload
from ..attempt_tokens import attempt_token, secret_of
from ..errors import Forbidden, InvalidInput, Unauthorized
from ..store.http.auth import MIN_TOKEN_BYTES, is_loopback

_ADDRESS = re.compile(
    r"(?:/rollout/(?P<rollout>[^/]+)/attempt/(?P<attempt>[^/]+)(?:/trace/(?P<traceparent>[0-9a-f-]+))?)?"
    r"(?:/v1)?/(?P<path>.*)"
)

Headers = dict[bytes, bytes]


@dataclass(frozen=True)
class Address:
    """What a URL path asks for, and in whose name."""

    path: str
    """Without `/v1`: chat/completions, messages, models."""
    rollout_id: str | None = None
    attempt_id: str | None = None
    traceparent: str = ""
    """The span within which it is asked, as W3C writes it, where the path names one."""

    @property
    def names_attempt(self) -> bool:
        """Whether the call is some attempt's."""
        return self.rollout_id is not None


def address_of(raw_path: str) -> Address:
    """Read a URL path as it came, its ids still quoted. Raises `InvalidInput` where they cannot be ids."""
    match = _ADDRESS.fullmatch(raw_path)
    if match is None:
        return Address(raw_path.strip("/"))
    if match["rollout"] is None:
        return Address(match["path"].rstrip("/"))
    rollout_id = payload.check_id(unquote(match["rollout"]), "rollout_id")
    attempt_id = payload.check_id(unquote(match["attempt"]), "attempt_id")
    return Address(match["path"].rstrip("/"), rollout_id, attempt_id, match["traceparent"] or "")


class Door:
    """Lets a call pass, or raises `Unauthorized` or `Forbidden`.

    Without a token, everybody on this machine may ask in anybody's name, but no web page. With one, the caller sends
    it as its API key, or the secret made of it; or the token made of that for one attempt, which opens the attempt's
    address and nothing else.
    """

    secret: str | None
    """What tokens for attempts are made of; runners have it, agents never do."""

    def __init__(self, host: str, token: str | None) -> None:
        if token is not None and len(token) < MIN_TOKEN_BYTES:
            raise InvalidInput(f"the token is too short: at least {MIN_TOKEN_BYTES} characters", field="token")
        if token is None and not is_loopback(host):
            raise InvalidInput(
                f"{host} can be reached from other machines, so the proxy needs a token there", field="token"
            )
        self._token = token
        self._host = host
        self.secret = secret_of(token) if token is not None else None

    @property
    def locked(self) -> bool:
        """Whether callers need a key of ours."""
        return self._token is not None

    def check(self, headers: Headers, address: Address) -> None:
        """Raise unless the caller may ask for this address."""
        self._check_page(headers)
        if self._token is None:
            self._check_host(headers)
        elif address.path != "health":
            self._check_key([self._token, self.secret or self._token], key_in(headers), address)

    def token_for(self, rollout_id: str, attempt_id: str) -> str:
        """What opens this attempt's address and nothing else. Raises `InvalidInput` where all are open."""
        if self.secret is None:
            raise InvalidInput("this proxy has no token, so everybody may speak for every attempt", field="token")
        return attempt_token(self.secret, rollout_id, attempt_id)

    def _check_key(self, allowed: list[str], given: str, address: Address) -> None:
        if address.rollout_id is not None and address.attempt_id is not None:
            allowed.append(self.token_for(address.rollout_id, address.attempt_id))
        if not any(hmac.compare_digest(given.encode(), one.encode()) for one in allowed):
            whose = (
                f"attempt {address.attempt_id} of rollout {address.rollout_id}"
                if address.names_attempt
                else "this proxy"
            )
            raise Unauthorized(f"the API key sent does not open {whose}")

    def _check_host(self, headers: Headers) -> None:
        name = headers.get(b"host", b"").decode("latin-1")
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name != self._host and not is_loopback(name):
            raise Forbidden(f"this proxy does not answer to the Host {name!r}", field="Host")

    def _check_page(self, headers: Headers) -> None:
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site"):
            raise Forbidden("a web page may not speak to this proxy", field="Origin")


def headers_of(scope: Scope) -> Headers:
    """The headers of a request, by lower-case name."""
    return dict(scope["headers"])


def key_in(headers: Headers) -> str:
    """The API key a caller sent, however its SDK sends it."""
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get(b"x-api-key", headers.get(b"api-key", b"")).decode("latin-1")
