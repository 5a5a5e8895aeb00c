"""Who may speak to the store: token, Host and Origin checks, limits on what arrives.

Plain ASGI, in front of everything else. A web page in a browser can neither read nor drain a store on this machine:
its requests carry an Origin, or a Host name that is not ours.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from starlette.types import Receive, Scope

from ...attempt_tokens import ATTEMPT_TOKEN, attempt_token, secret_of
from ...errors import Forbidden, InvalidInput, TooLarge, Unauthorized

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body."""
MIN_TOKEN_BYTES = 16
"""128 bits, as hex, base64 or any other text of at least that many characters."""

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What a load balancer may ask without a token."""

RUNNERS_MAY = frozenset(
    {
        *("dequeue_rollout", "dequeue_many_rollouts", "start_rollout", "start_attempt", "update_attempt"),
        *("get_rollout_by_id", "get_latest_attempt", "query_attempts", "wait_for_rollouts", "query_spans"),
        *("get_resources_by_id", "get_latest_resources", "update_worker", "get_worker_by_id"),
        *("add_span", "add_many_spans", "get_next_span_sequence_id", "get_many_span_sequence_ids", "v1", "batch"),
    }
)
"""What the runners' token opens: to carry rollouts out, not to make, change or list them."""

ATTEMPTS_MAY = frozenset({"/v1/traces"})
"""What an attempt's own token opens; whoever answers there asks `SPEAKS_FOR`."""
SPEAKS_FOR = "agentlightning.speaks_for"
"""In the scope of a request with an attempt's token: tells of two ids whether the token is that attempt's."""

_RUNNERS = "agentlightning.runners"
"""In the scope of a request with the runners' token."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Only this machine can reach `host`."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_page(path: str) -> bool:
    """The dashboard's own files, which are the same everywhere: they hold nothing of the store."""
    return path == "/" or path.startswith("/dashboard/")


def check_exposure(host: str, token: str | None, runner_token: str | None = None) -> None:
    """Raise `InvalidInput` for a store that strangers could reach without a token, or with a weak one."""
    if token is not None and len(token) < MIN_TOKEN_BYTES:
        raise InvalidInput(f"the token is too short: at least {MIN_TOKEN_BYTES} characters (agl store token makes one)")
    if runner_token is not None and (token is None or len(runner_token) < MIN_TOKEN_BYTES):
        raise InvalidInput(f"a runners' token needs an admin's beside it, and {MIN_TOKEN_BYTES} characters")
    if token is None and not is_loopback(host):
        raise InvalidInput(
            f"{host} can be reached from other machines, so the store needs a token there: "
            "pass --token or AGL_TOKEN (agl store token makes one)",
            field="token",
        )


class Guard:
    """Lets a request pass, or raises `Unauthorized` or `Forbidden`."""

    def __init__(
        self, host: str, token: str | None, allowed_hosts: Iterable[str] = (), *, runner_token: str | None = None
    ) -> None:
        self._token = None if token is None else token.encode()
        self._runner_token = None if runner_token is None else runner_token.encode()
        self._hosts = frozenset({*_LOOPBACK_NAMES, host, *allowed_hosts})

    def check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        if is_page(scope["path"]):  # a link from anywhere may lead there
            return
        self._check_origin(headers)
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            self._check_token(headers.get(b"authorization", b""), scope)

    def _check_host(self, host: str) -> None:
        # With a token a foreign name does no harm: the page that uses it does not know the token.
        if self._token is None and _name(host) not in self._hosts:
            raise Forbidden(f"this store does not answer to the Host {host!r}", field="Host")

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site"):
            raise Forbidden("a page from another site may not speak to this store", field="Origin")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise Forbidden("a page from another origin may not speak to this store", field="Origin")

    def _check_token(self, authorization: bytes, scope: Scope) -> None:
        scheme, _, given = authorization.partition(b" ")
        assert self._token is not None
        if scheme.lower() != b"bearer":
            raise Unauthorized()
        if hmac.compare_digest(given.strip(), self._token):
            return
        if self._runner_token is not None and hmac.compare_digest(given.strip(), self._runner_token):
            scope[_RUNNERS] = True
            check_operation(scope, scope["path"][1:].partition("/")[0])
            return
        if scope["path"] not in ATTEMPTS_MAY or not given.strip().startswith(ATTEMPT_TOKEN.encode()):
            raise Unauthorized()
        makers = [token for token in (self._token, self._runner_token) if token is not None]
        scope[SPEAKS_FOR] = partial(_is_token_of, given.strip(), [secret_of(token.decode()) for token in makers])


def check_operation(scope: Scope, operation: str) -> None:
    """Raise `Forbidden` where the token of this request, which has been let in, does not open an operation."""
    if _RUNNERS in scope and operation not in RUNNERS_MAY:
        raise Forbidden(f"a runner's token does not open {operation}; ask with the admin's", field="Authorization")


def _is_token_of(given: bytes, secrets: Sequence[str], rollout_id: str, attempt_id: str) -> bool:
    made = [attempt_token(secret, rollout_id, attempt_id).encode() for secret in secrets]
    return any(hmac.compare_digest(given, token) for token in made)


async def read_body(scope: Scope, receive: Receive, limit: int = MAX_BODY) -> bytes:
    """The request's body. Raises `TooLarge` as soon as it is known to be more than `limit` bytes."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the caller went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    size = f"{limit >> 20} MiB" if limit >= 2**20 else f"{limit >> 10} KiB"
    return TooLarge(f"the body is larger than {size}", field="body")


def _name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
