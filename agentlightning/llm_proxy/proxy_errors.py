"""Errors of the proxy, and error responses that the SDKs of OpenAI and Anthropic both parse."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from ..errors import AgentLightningError


class ProxyError(AgentLightningError):
    """The proxy cannot forward this call."""

    def __init__(self, message: str, http_status: int, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retry_after = retry_after


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def error_response(error: AgentLightningError) -> Response:
    """Build the response for an error, in a form that both SDKs parse."""
    status, retry_after = error.status, None
    if isinstance(error, ProxyError):
        status, retry_after = error.http_status, error.retry_after
    details = {"type": _TYPES.get(status, "api_error"), "code": None, "param": error.field, "message": str(error)}
    body: dict[str, Any] = {"type": "error", "error": details}
    headers = {} if retry_after is None else {"retry-after": str(max(1, round(retry_after)))}
    return Response(orjson.dumps(body), status, headers, "application/json")
