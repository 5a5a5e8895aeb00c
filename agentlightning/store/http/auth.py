"""Authorization of requests to the store: tokens with scopes, and checks of Host and Origin.

A web page from another site can neither read nor change the data in a store on this machine. The store rejects requests
with another site's Origin header. If the store requires a token, it also rejects requests without a valid token;
otherwise, it rejects requests whose Host header does not name the store. If the store allows host names other than
localhost without a token, GET requests that change data must also have a header that web pages cannot send. This check
is necessary because a page could send such a request as the URL of an image. To that request, browsers add neither an
Origin header nor, for these host names, a Sec-Fetch-Site header.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from ...attempt_tokens import derive_secret, verified_attempt
from ...errors import Forbidden, InvalidInput, Unauthorized
from ...http.auth import CROSS_SITE, Headers, bearer_token, check_exposure, is_allowed_host, matches_token
from ..contract import operations
from .messages import CLIENT_HEADER

PUBLIC_PATHS = frozenset({"/health", "/ready"})
"""Paths that require no token, so that a load balancer can request them."""

RUNNER_OPERATIONS = frozenset(
    {
        *("dequeue_rollout", "dequeue_many_rollouts", "start_rollout", "start_attempt", "update_attempt"),
        *("get_rollout_by_id", "get_latest_attempt", "query_attempts", "wait_for_rollouts", "query_spans"),
        *("get_resources_by_id", "get_latest_resources", "update_worker", "get_worker_by_id"),
        *("add_span", "add_many_spans", "get_next_span_sequence_id", "get_many_span_sequence_ids", "v1", "batch"),
    }
)
"""Operations that the runner token permits. They are enough to execute rollouts, but not to enqueue, edit or list them.

`v1` and `batch` are the first segments of the paths `/v1/traces` and `/batch`.
"""

ATTEMPT_PATHS = frozenset({"/v1/traces"})
"""Paths that may be requested with an attempt token. The endpoint gets the token's attempt from `token_attempt`."""

STATE_CHANGING_GETS = frozenset(route.name for route, _ in operations() if route.method == "GET" and route.mutates)
"""Operations that change the store although their method is GET. Any web page can send GET requests."""

_RUNNER = "agentlightning.runner"
"""ASGI scope key that marks a request made with the runner token."""
_ATTEMPT = "agentlightning.attempt"
"""ASGI scope key for the rollout id and the attempt id in a request's attempt token."""


class RequestAuthorizer:
    """Authorizes requests by their token and their Host and Origin headers.

    The constructor raises `InvalidInput` if other machines could reach the store without a token, if a token is too
    short, or if there is a runner token but no admin token.
    """

    def __init__(
        self, host: str, token: str | None, allowed_hosts: Iterable[str] = (), *, runner_token: str | None = None
    ) -> None:
        remedy = "set AGL_TOKEN, or pass --token-file or token= (`agl store token` generates one)"
        check_exposure(host, token, server="store", remedy=remedy)
        if runner_token is not None:
            if token is None:
                raise InvalidInput("a runner token requires an admin token as well", field="runner_token")
            check_exposure(host, runner_token, server="store", remedy="pass a longer runner token")
        self._token = token
        self._runner_token = runner_token
        self._secrets = [derive_secret(each) for each in (token, runner_token) if each is not None]
        self._hosts = frozenset({host, *allowed_hosts})
        self._needs_client_header = token is None and len(self._hosts) > 1

    def authorize(self, scope: Scope) -> None:
        """Raise `Unauthorized` or `Forbidden` unless the request is permitted.

        The check uses only the path and the headers, so the body of a refused request is never read. For a runner token
        or an attempt token, also add an entry to `scope`. `check_operation` and `token_attempt` use this entry to
        enforce the token's restrictions.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        # If a token is required, the Host header need not be checked: a page from another site lacks the token.
        if self._token is None and not is_allowed_host(headers.get(b"host"), self._hosts):
            host = headers.get(b"host", b"").decode("latin-1")
            raise Forbidden(
                f"the Host header {host!r} does not name this store; allow it with --allow-host", field="Host"
            )
        # The dashboard's static files do not contain any data from the store, so they require neither check below.
        if scope["path"] == "/" or scope["path"].startswith("/dashboard/"):
            return
        _check_origin(headers)
        if self._needs_client_header:
            _check_client_header(headers, scope)
        if self._token is not None and scope["path"] not in PUBLIC_PATHS:
            self._check_token(bearer_token(headers), self._token, scope)

    def _check_token(self, given: str | None, token: str, scope: Scope) -> None:
        if given is None:
            raise Unauthorized()
        if matches_token(given, (token,)):
            return
        if self._runner_token is not None and matches_token(given, (self._runner_token,)):
            scope[_RUNNER] = True
            check_operation(scope, _operation(scope))
        elif scope["path"] in ATTEMPT_PATHS and (attempt := verified_attempt(given, self._secrets)):
            scope[_ATTEMPT] = attempt
        else:
            raise Unauthorized("the token is unknown or does not permit this request: set AGL_TOKEN or pass token=")


def check_operation(scope: Scope, operation: str) -> None:
    """Raise `Forbidden` if the request's token does not permit `operation`."""
    if _RUNNER in scope and operation not in RUNNER_OPERATIONS:
        raise Forbidden(f"the runner token does not permit {operation}; use the admin token", field="Authorization")


def token_attempt(scope: Scope) -> tuple[str, str] | None:
    """Return the rollout id and the attempt id in the request's attempt token, or None if it has no such token."""
    return scope.get(_ATTEMPT)


def _check_origin(headers: Headers) -> None:
    origin = headers.get(b"origin")
    if headers.get(b"sec-fetch-site") in CROSS_SITE or (
        origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    ):
        raise Forbidden("web pages from another origin may not send requests to this store", field="Origin")


def _check_client_header(headers: Headers, scope: Scope) -> None:
    operation = _operation(scope)
    if operation in STATE_CHANGING_GETS and headers.get(CLIENT_HEADER.lower().encode()) != b"1":
        raise Forbidden(
            f"{operation} changes data, and this store allows hosts other than localhost without a token: send the "
            f"header {CLIENT_HEADER}: 1, which web pages cannot send",
            field=CLIENT_HEADER,
        )


def _operation(scope: Scope) -> str:
    return scope["path"][1:].partition("/")[0]
