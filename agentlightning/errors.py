"""What can go wrong, as one tree; the first line of each docstring is the default message.

AgentLightningError
├── NotFound                 (ValueError, LookupError)    404
├── WrongMethod                                           405
├── Conflict                 (ValueError)                 409
│   ├── FinalStatus             it has ended, nothing changes it
│   └── StaleAttempt            another attempt speaks for the rollout now
├── InvalidInput             (ValueError)                 422
│   ├── TooLarge                                          413
│   ├── TooSlow                                           408
│   └── PromptError             a prompt template cannot be filled in
├── Unauthorized             (PermissionError)            401
├── Forbidden                (PermissionError)            403
├── StoreUnavailable         (ConnectionError)            503
│   └── StoreBusy                                         429
├── StoreInUse               (RuntimeError)
├── RunnerDied               (RuntimeError)
├── AgentError               (RuntimeError)  what the agent did is not what an agent may do
├── ResourceMissing          (ValueError)    the rollout's resources lack what the agent asks for
├── NoActiveTracer           (RuntimeError)
└── MissingExtra             (ImportError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError


class AgentLightningError(Exception):
    """Something went wrong in Agent Lightning."""

    status: ClassVar[int] = 500
    """The HTTP status that says the same thing."""

    field: str | None
    """The input field to blame, where there is one."""

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.field = field

    def __str__(self) -> str:
        # LookupError's str() would quote the message when it is also a KeyError's kin; ours never is.
        return str(self.args[0])


class NotFound(AgentLightningError, ValueError, LookupError):
    """There is no such thing in this store."""

    status = 404


class WrongMethod(AgentLightningError):
    """This path takes another method."""

    status = 405

    def __init__(self, message: str | None = None, *, field: str | None = None, allowed: str = "GET") -> None:
        super().__init__(message, field=field)
        self.allowed = allowed


class Conflict(AgentLightningError, ValueError):
    """The change does not fit the state things are in."""

    status = 409


class FinalStatus(Conflict):
    """It has already ended, and final is final."""


class StaleAttempt(Conflict):
    """Another attempt speaks for this rollout now."""


class InvalidInput(AgentLightningError, ValueError):
    """The input is not valid."""

    status = 422

    @classmethod
    def of(cls, error: ValidationError) -> InvalidInput:
        """The first thing that pydantic found, in one sentence that names the field."""
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return cls(f"{field}: {first['msg']}" if field else first["msg"], field=field or None)


class TooLarge(InvalidInput):
    """The input is larger than the store takes."""

    status = 413


class TooSlow(InvalidInput):
    """The input took too long to arrive."""

    status = 408


class PromptError(InvalidInput):
    """The prompt template cannot be filled in."""


class Unauthorized(AgentLightningError, PermissionError):
    """This store asks for a token: pass it as AGL_TOKEN or token=."""

    status = 401


class Forbidden(AgentLightningError, PermissionError):
    """This caller may not do that."""

    status = 403


class StoreUnavailable(AgentLightningError, ConnectionError):
    """The store cannot be reached, or cannot write just now."""

    status = 503


class StoreBusy(StoreUnavailable):
    """The store has too much waiting already; try again in a moment."""

    status = 429


class StoreInUse(AgentLightningError, RuntimeError):
    """Somebody else has this: one store owns a database, and one trainer a store."""


class RunnerDied(AgentLightningError, RuntimeError):
    """The runners' processes die again and again."""


class AgentError(AgentLightningError, RuntimeError):
    """The agent did something an agent may not do."""


class ResourceMissing(AgentLightningError, ValueError):
    """The rollout's resources lack what the agent asks for."""


class NoActiveTracer(AgentLightningError, RuntimeError):
    """No tracer is active here: emit from inside an agent that a runner runs, or pass propagate=False."""


class MissingExtra(AgentLightningError, ImportError):
    """An optional library is missing."""

    def __init__(self, extra: str, *, wanted_for: str, field: str | None = None) -> None:
        super().__init__(f"{wanted_for} needs an optional library: pip install 'agentlightning[{extra}]'", field=field)
        self.extra = extra
        self.wanted_for = wanted_for

    def __reduce__(self) -> tuple[Any, ...]:
        return _missing_extra, (self.extra, self.wanted_for, self.field)


def _missing_extra(extra: str, wanted_for: str, field: str | None) -> MissingExtra:
    return MissingExtra(extra, wanted_for=wanted_for, field=field)
