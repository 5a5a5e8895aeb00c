"""The package's exception hierarchy. The first line of a class's docstring is the exception's default message.

AgentLightningError
├── NotFound                 (ValueError, LookupError)    404
├── WrongMethod                                           405
├── Conflict                 (ValueError)                 409
│   ├── FinalStatus             the rollout or attempt has finished
│   └── StaleAttempt            a newer attempt has replaced this one
├── InvalidInput             (ValueError)                 422
│   ├── TooLarge                                          413
│   ├── TooSlow                                           408
│   └── PromptError             a prompt template cannot be rendered
├── Unauthorized             (PermissionError)            401
├── Forbidden                (PermissionError)            403
├── StoreUnavailable         (ConnectionError)            503
│   └── StoreBusy                                         429
├── StoreInUse               (RuntimeError)
├── RunnerDied               (RuntimeError)
├── AgentError               (RuntimeError)  the agent returned something invalid, or its program failed
├── ResourceMissing          (ValueError)    the rollout lacks a resource that the agent needs
├── NoActiveTracer           (RuntimeError)
└── MissingExtra             (ImportError)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

_MAX_ERRORS = 1_000


class AgentLightningError(Exception):
    """Agent Lightning reported an error."""

    status: ClassVar[int] = 500
    """Equivalent HTTP status code."""

    field: str | None
    """Name of the invalid input field, if known."""

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.field = field

    def __str__(self) -> str:
        # Always return the plain message. Some built-in exceptions, such as `KeyError`, return its `repr` instead.
        return str(self.args[0])


class NotFound(AgentLightningError, ValueError, LookupError):
    """The store has no such object."""

    status = 404


class WrongMethod(AgentLightningError):
    """This path does not accept the request's HTTP method."""

    status = 405

    def __init__(self, message: str | None = None, *, field: str | None = None, allowed: str = "GET") -> None:
        super().__init__(message, field=field)
        self.allowed = allowed


class Conflict(AgentLightningError, ValueError):
    """The change conflicts with the current state."""

    status = 409


class FinalStatus(Conflict):
    """The rollout or attempt has already finished; its status is final."""


class StaleAttempt(Conflict):
    """A newer attempt of this rollout has replaced this one."""


class InvalidInput(AgentLightningError, ValueError):
    """The input is not valid."""

    status = 422

    @classmethod
    def of(cls, error: ValidationError) -> InvalidInput:
        """Convert a pydantic error. The message describes only the first invalid field, and names it."""
        if (count := error.error_count()) > _MAX_ERRORS:  # pydantic describes all errors, or none
            return cls(f"{count} of the given fields are unknown or invalid")
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return cls(f"{field}: {first['msg']}" if field else first["msg"], field=field or None)


class TooLarge(InvalidInput):
    """The input exceeds the size limit of the store."""

    status = 413


class TooSlow(InvalidInput):
    """The request took too long to arrive."""

    status = 408


class PromptError(InvalidInput):
    """The prompt template cannot be rendered."""


class Unauthorized(AgentLightningError, PermissionError):
    """The store requires a token: set AGL_TOKEN or pass token=."""

    status = 401


class Forbidden(AgentLightningError, PermissionError):
    """The token does not permit this operation."""

    status = 403


class StoreUnavailable(AgentLightningError, ConnectionError):
    """The store is unreachable or cannot write at the moment."""

    status = 503


class StoreBusy(StoreUnavailable):
    """The store has too many pending requests; try again in a moment."""

    status = 429


class StoreInUse(AgentLightningError, RuntimeError):
    """The database or store is already in use: one store per database, one trainer per store."""


class RunnerDied(AgentLightningError, RuntimeError):
    """The runner processes keep dying; see their output for the cause."""


class AgentError(AgentLightningError, RuntimeError):
    """The agent returned something invalid, or its program failed."""


class ResourceMissing(AgentLightningError, ValueError):
    """The rollout lacks a resource that the agent needs."""


class NoActiveTracer(AgentLightningError, RuntimeError):
    """No tracer is active: emit inside an agent that a runner executes, or pass propagate=False."""


class MissingExtra(AgentLightningError, ImportError):
    """An optional library is not installed."""

    def __init__(self, extra: str, *, wanted_for: str, field: str | None = None) -> None:
        super().__init__(f"{wanted_for} needs an optional library: pip install 'agentlightning[{extra}]'", field=field)
        self.extra = extra
        self.wanted_for = wanted_for

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(MissingExtra, wanted_for=self.wanted_for, field=self.field), (self.extra,)
