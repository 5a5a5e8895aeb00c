"""Authentication of requests to the proxy: attempt ids in URLs, API keys, and rejection of requests from web pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from .. import payload
from ..attempt_tokens import attempt_token, derive_secret
from ..errors import Forbidden, InvalidInput, Unauthorized
from ..http.auth import CROSS_SITE, Headers, bearer_token, check_exposure, is_allowed_host, matches_token
from ..instrumentation.dialects.base import Json

_TARGET = re.compile(
    r"(?:/rollout/(?P<rollout>[^/]+)/attempt/(?P<attempt>[^/]+)(?:/trace/(?P<traceparent>[0-9a-f-]+))?)?"
    r"(?:/v1)?/(?P<path>.*)"
)


@dataclass(frozen=True)
class RequestTarget:
    """The components of a request's URL path."""

    path: str
    """The path after `/v1/`, such as chat/completions, messages or models."""
    rollout_id: str = ""
    attempt_id: str = ""
    """The attempt id. Both ids are empty if the call does not belong to an attempt."""
    traceparent: str = ""
    """The W3C traceparent of the call's parent span, if the URL contains one."""


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
    """A call as sent by the agent."""

    target: RequestTarget
    headers: Headers
    content: bytes
    body: Json
    client_key: str | None
    """The agent's own API key, used if no key is configured for the upstream. None if the proxy itself has a token."""


class ProxyAuthenticator:
    """Accepts a request, or raises `Unauthorized` or `Forbidden`.

    Without a token, every process on this machine may make calls for any attempt, but web pages may not. With a token,
    a client's API key must be the token, the secret derived from the token, or the attempt token derived from that
    secret. An attempt token is valid only for the URL of its attempt.
    """

    secret: str | None
    """Secret for deriving attempt tokens, or None if the proxy has no token. Runners receive it; agents never do."""

    def __init__(self, host: str, token: str | None) -> None:
        check_exposure(host, token, server="proxy", remedy="pass token= or --token")
        self._token = token
        self._hosts = frozenset({host})
        self.secret = derive_secret(token) if token is not None else None

    def authenticate(self, headers: Headers, target: RequestTarget) -> None:
        """Raise `Unauthorized` or `Forbidden` unless the client may use this target."""
        if b"origin" in headers or headers.get(b"sec-fetch-site") in CROSS_SITE:
            raise Forbidden("web pages may not use this proxy; call it from a program", field="Origin")
        if self._token is None:
            if not is_allowed_host(headers.get(b"host"), self._hosts):
                host = headers.get(b"host", b"").decode("latin-1")
                raise Forbidden(f"this proxy does not accept requests for the host {host!r}", field="Host")
        elif target.path != "health":
            self._check_key([self._token, self.secret or self._token], api_key_in(headers), target)

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str:
        """Return the token that is valid for this attempt only. Raises `InvalidInput` if the proxy has no token."""
        if self.secret is None:
            raise InvalidInput("this proxy has no token to derive attempt tokens from; pass token=", field="token")
        return attempt_token(self.secret, rollout_id, attempt_id)

    def _check_key(self, accepted: list[str], given: str, target: RequestTarget) -> None:
        protected = "this proxy"
        if target.rollout_id:
            accepted.append(self.attempt_token(target.rollout_id, target.attempt_id))
            protected = f"attempt {target.attempt_id} of rollout {target.rollout_id}"
        if not matches_token(given, accepted):
            raise Unauthorized(f"the API key is not valid for {protected}; send the token of the proxy or the attempt")


def api_key_in(headers: Headers) -> str:
    """Return the client's API key from the header that its SDK uses, or an empty string if there is no key."""
    key = bearer_token(headers)
    return headers.get(b"x-api-key", headers.get(b"api-key", b"")).decode("latin-1") if key is None else key
