"""Authentication of requests to the LLM proxy, and parsing of the request URLs, which contain the attempt ids."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from .. import payload
from ..attempt_tokens import attempt_token, derive_secret
from ..errors import Forbidden, InvalidInput, NotFound, StoreUnavailable, Unauthorized
from ..http.auth import CROSS_SITE, Headers, bearer_token, check_exposure, is_allowed_host, matches_token
from ..instrumentation.dialects.base import Json
from ..store.contract import LightningStore

CHECK_SECONDS = 60.0
"""Time in seconds after which the proxy checks an attempt token again."""
_LOOKUP_SECONDS = 1.0
"""Maximum time in seconds that an unreachable store delays a call."""
_MAX_CHECKED = 10_000
"""Number of checked attempts above which the proxy forgets all of them, and then checks their tokens again."""

_TARGET = re.compile(
    r"(?:/rollout/(?P<rollout>[^/]+)/attempt/(?P<attempt>[^/]+)(?:/trace/(?P<traceparent>[0-9a-f-]+))?)?"
    r"(?:/v1)?/(?P<path>.*)"
)


@dataclass(frozen=True)
class RequestTarget:
    """The components of a request's URL path."""

    path: str
    """The API path without the leading `/v1/`, such as `chat/completions`, `messages` or `models`."""
    rollout_id: str = ""
    attempt_id: str = ""
    """The attempt id. Both `rollout_id` and `attempt_id` are empty if the call does not belong to an attempt."""
    traceparent: str = ""
    """The W3C traceparent that identifies the call's parent span, or an empty string if the URL contains none."""


def parse_target(raw_path: str) -> RequestTarget:
    """Parse a percent-encoded URL path. Raises `InvalidInput` if the rollout id or the attempt id is invalid."""
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
    """A model call as sent by the agent."""

    target: RequestTarget
    headers: Headers
    content: bytes
    body: Json
    client_key: str | None
    """The agent's API key, which is sent to the model server if no other key is configured for that server.

    None if the proxy requires a token, because the agent's key is then meant for the proxy and not for the server.
    """


class ProxyAuthenticator:
    """Rejects unauthorized requests with `Unauthorized` or `Forbidden`.

    If the proxy does not have a token, every process on this machine may make calls for any attempt. If the proxy has a
    token, a client must send one of three API keys: the token itself, the secret derived from the token, or an attempt
    token derived from that secret. An attempt token is valid only for the URL of its attempt. The path `/health` does
    not require an API key. Requests from web pages are always rejected.
    """

    secret: str | None
    """Secret from which attempt tokens are derived, or None if the proxy does not have a token.

    Runners receive the secret, but agents never do.
    """

    def __init__(self, host: str, token: str | None) -> None:
        check_exposure(host, token, server="proxy", remedy="set AGL_PROXY_TOKEN, or pass --token-file or token=")
        self._token = token
        self._hosts = frozenset({host})
        self.secret = derive_secret(token) if token is not None else None

    def authenticate(self, headers: Headers, target: RequestTarget) -> bool:
        """Raise `Unauthorized` or `Forbidden` unless the client may send a request to `target`.

        Return True if the API key is an attempt token. `TokenExpiry` checks that such a token has not expired.
        """
        if b"origin" in headers or headers.get(b"sec-fetch-site") in CROSS_SITE:
            raise Forbidden("web pages may not use this proxy; call it from a program", field="Origin")
        if self._token is None:
            if not is_allowed_host(headers.get(b"host"), self._hosts):
                host = headers.get(b"host", b"").decode("latin-1")
                raise Forbidden(f"this proxy does not accept requests for the host {host!r}", field="Host")
        elif target.path != "health":
            return self._is_attempt_token([self._token, self.secret or self._token], api_key_in(headers), target)
        return False

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str:
        """Return the API key that is valid only for this attempt. Raises `InvalidInput` if the proxy has no token."""
        if self.secret is None:
            raise InvalidInput("this proxy has no token to derive attempt tokens from; pass token=", field="token")
        return attempt_token(self.secret, rollout_id, attempt_id)

    def _is_attempt_token(self, accepted: list[str], given: str, target: RequestTarget) -> bool:
        if matches_token(given, accepted):
            return False
        protected = "this proxy"
        if target.rollout_id:
            if matches_token(given, (self.attempt_token(target.rollout_id, target.attempt_id),)):
                return True
            protected = f"attempt {target.attempt_id} of rollout {target.rollout_id}"
        raise Unauthorized(f"the API key is not valid for {protected}; send the token of the proxy or the attempt")


class TokenExpiry:
    """Rejects attempt tokens if the rollout was deleted, or if the attempt does not exist or ended too long ago.

    A token is valid for `seconds` after the end of its attempt. A valid token is checked again after `CHECK_SECONDS`.
    Tokens are not checked while the proxy has no store or the store is unreachable.
    """

    def __init__(self, store: Callable[[], LightningStore | None], seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._checked: dict[tuple[str, str], float] = {}

    async def check(self, rollout_id: str, attempt_id: str) -> None:
        """Raise `Unauthorized` if the token for this attempt is no longer valid."""
        store, ids, now = self._store(), (rollout_id, attempt_id), time.monotonic()
        if store is None or now - self._checked.get(ids, -math.inf) < CHECK_SECONDS:
            return
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                attempts = await store.query_attempts(rollout_id)
        except NotFound:
            raise Unauthorized(f"this API key is no longer valid: rollout {rollout_id} has been deleted") from None
        except (TimeoutError, StoreUnavailable):
            return
        attempt = next((each for each in attempts if each.attempt_id == attempt_id), None)
        if attempt is None:
            raise Unauthorized(f"this API key is not valid: rollout {rollout_id} has no attempt {attempt_id}")
        if attempt.end_time is not None and time.time() - attempt.end_time > self._seconds:
            raise Unauthorized(
                f"this API key is no longer valid: attempt {attempt_id} of rollout {rollout_id} ended more than "
                f"{self._seconds:g} s ago"
            )
        if len(self._checked) >= _MAX_CHECKED:
            self._checked.clear()
        self._checked[ids] = now


def api_key_in(headers: Headers) -> str:
    """Return the API key from the Authorization, x-api-key or api-key header, or an empty string if all are missing."""
    key = bearer_token(headers)
    return headers.get(b"x-api-key", headers.get(b"api-key", b"")).decode("latin-1") if key is None else key
