"""The proxy's own errors, and error bodies and events that both the OpenAI SDK and the Anthropic SDK can parse."""

from __future__ import annotations

import orjson

from ..errors import AgentLightningError
from ..instrumentation.dialects.base import Json

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class ProxyError(AgentLightningError):
    """The proxy could not forward this call."""

    def __init__(self, message: str, http_status: int, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retry_after = retry_after


def too_busy() -> ProxyError:
    """Return the error for a call that would exceed a limit on the number or the total size of calls in progress."""
    message = (
        "the proxy has reached the limit on the number or the total size of calls in progress "
        "(Limits.requests, Limits.bodies); retry later"
    )
    return ProxyError(message, 429, retry_after=1)


def too_many_values(limit: int) -> str:
    """Return the description of JSON that exceeds the limit on the number of values."""
    return f"has more than {limit} JSON values; raise --max-values (Limits.values)"


def http_status(error: AgentLightningError) -> int:
    """Return the HTTP status of the response that reports the error."""
    return error.http_status if isinstance(error, ProxyError) else error.status


def error_body(error: AgentLightningError) -> Json:
    """Return the body of the response that reports the error."""
    kind = _TYPES.get(http_status(error), "api_error")
    return {"type": "error", "error": {"type": kind, "code": None, "param": error.field, "message": str(error)}}


def error_event(error: AgentLightningError) -> bytes:
    """Return the server-sent event that reports the error in a streamed response."""
    return b"event: error\ndata: %b\n\n" % orjson.dumps(error_body(error))
