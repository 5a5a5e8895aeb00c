"""Why the proxy does not pass a call on, said as the agent's own SDK expects to hear it."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from ..errors import AgentLightningError


class Refused(AgentLightningError):
    """The proxy cannot pass this call on."""

    def __init__(self, message: str, status: int, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = status
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


def as_response(error: AgentLightningError) -> Response:
    """The error in a form that OpenAI's and Anthropic's SDKs both read."""
    status = error.http_status if isinstance(error, Refused) else error.status
    kind = _TYPES.get(status, "api_error")
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": kind, "code": None, "param": error.field, "message": str(error)},
    }
    headers: dict[str, str] = {}
    if isinstance(error, Refused) and error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return Response(orjson.dumps(body), status, headers, "application/json")
