"""Authentication of the proxy's requests: attempts named in URLs, API keys, and requests from web pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from .. import payload
from ..attempt_tokens import attempt_token, derive_secret
from ..errors import Forbidden, InvalidInput, Unauthorized
from ..http.auth import (
    CROSS_SITE,
    Headers,
    bearer_token,
    check_exposure,
    is_allowed_host,
    matches_token,
)
from ..instrumentation.dialects.base import Json

_TARGET = re.compile(
    r"(?:/rollout/(?P<rollout>[^/]+)/attempt/(?P<attempt>[^/]+)(?:/trace/(?P<traceparent>[0-9a-f-]+))?)?"
    r"(?:/v1)?/(?P<path>.*)"
)


@dataclass(frozen=True)
class RequestTarget:
    """The parts of a request's URL path."""

    path: str
    """Without `/v1`: chat/completions, messages, models."""
    rollout_id: str = ""
    attempt_id: str = ""
    """Empty in a call that belongs to no attempt."""
    traceparent: str = ""
    """The parent span of the call in W3C notation, if the URL contains one."""


def parse_target(raw_path: str) -> RequestTarget:
    """Parse a percent-encoded URL path. Raises `InvalidInput` if an id in it is not valid."""
    match = _TARGET.fullmatch(raw_path)
    if match is None:
        return RequestTarget(raw_path.strip("/"))
    path = match["path"].rstrip("/")
    if match["rollout"] is None:
        return RequestTarget(path)
    rollout_id = payload.check_id(unquote(match["rollout"]), "rollout_id")
    attempt_id = payload.check_id(unquote(match["attempt"]), "attempt_id")
    return RequestTarget(path, rollout_id, attempt_id, match["traceparent"] or "")


@dataclass
class ProxyRequest:
    """A call as the agent sent it."""

    target: RequestTarget
    headers: Headers
    content: bytes
    body: Json
    client_key: str | None
    """The agent's own API key, for an upstream without a configured one."""


class ProxyAuthenticator:
    """Accepts a request, or raises `Unauthorized` or `Forbidden`.

    Without a token, every process of this machine may call in the name of any attempt, but no web page may. With a
    token, a client sends as its API key the token, or the secret derived from it, or the attempt token derived from
    that secret. An attempt token is valid for the URL of its attempt only.
    """

    secret: str | None
    """Attempt tokens are derived from it. Runners have it, agents never do."""

    def __init__(self, host: str, token: str | None) -> None:
        check_exposure(host, token, server="proxy", remedy="pass token= or --token")
        self._token = token
        self._hosts = frozenset({host})
        self.secret = derive_secret(token) if token is not None else None

    @property
    def requires_token(self) -> bool:
        """True if clients authenticate with a key of the proxy instead of their own."""
        return self._token is not None

    def authenticate(self, headers: Headers, target: RequestTarget) -> None:
        """Raise unless the client may use this target."""
        if b"origin" in headers or headers.get(b"sec-fetch-site") in CROSS_SITE:
            raise Forbidden("web pages may not use this proxy", field="Origin")
        if self._token is None:
            if not is_allowed_host(headers.get(b"host"), self._hosts):
                host = headers.get(b"host", b"").decode("latin-1")
                raise Forbidden(f"this proxy does not serve the Host {host!r}", field="Host")
        elif target.path != "health":
            self._check_key([self._token, self.secret or self._token], api_key_in(headers), target)

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str:
        """Return the token that is valid for this attempt only. Raises `InvalidInput` if the proxy has no token."""
        if self.secret is None:
            raise InvalidInput("this proxy has no token, so its attempts have none: pass token=", field="token")
        return attempt_token(self.secret, rollout_id, attempt_id)

    def _check_key(self, accepted: list[str], given: str, target: RequestTarget) -> None:
        protected = "this proxy"
        if target.rollout_id:
            accepted.append(self.attempt_token(target.rollout_id, target.attempt_id))
            protected = f"attempt {target.attempt_id} of rollout {target.rollout_id}"
        if not matches_token(given, accepted):
            raise Unauthorized(f"the API key is not valid for {protected}")


def api_key_in(headers: Headers) -> str:
    """Return the client's API key, from any of the headers in which SDKs send it."""
    key = bearer_token(headers)
    return headers.get(b"x-api-key", headers.get(b"api-key", b"")).decode("latin-1") if key is None else key
