"""LightningStore: every operation of the store once, with its name, its types and its promise.

All else is derived from this class: the HTTP routes and the client (`wire.py`), the OpenAPI page, the contract tests.
Adding an operation is one method here and one body in `sql.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

# pydantic takes only this one before Python 3.12, and brings it along.
from typing_extensions import TypedDict

from ..types import (
    Attempt,
    AttemptedRollout,
    AttemptRef,
    AttemptStatus,
    EnqueueRolloutRequest,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    Worker,
    WorkerStatus,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

FilterLogic = Literal["and", "or"]
SortOrder = Literal["asc", "desc"]
AnyRollout = AttemptedRollout | Rollout


class Unset:
    """The type of `UNSET`: a parameter that was not given, where None has a meaning of its own."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


class Capabilities(TypedDict):
    """What callers may rely on."""

    durable: bool
    """What was acknowledged survives the end of the process."""
    thread_safe: bool
    async_safe: bool
    zero_copy: bool
    """The caller is in the store's own process."""
    otlp_traces: bool
    """`otlp_traces_endpoint()` names a URL that takes OTLP/HTTP."""


class Statistics(TypedDict):
    """How much the store holds."""

    rollouts: dict[str, int]
    """By status; statuses that no rollout has are left out."""
    attempts: int
    spans: int
    resources: int
    workers: dict[str, int]
    queue_depth: int


class Lease(TypedDict):
    """Who holds what only one may hold at a time."""

    holder: str
    about: dict[str, Any] | None
    """What the holder says of itself."""
    since: float
    seen: float
    """When it last said that it holds on."""
    seconds_left: float
    """Until it may go to another, if nothing more is heard of the holder."""


class RewardStep(TypedDict):
    """What the rollouts of one share of the run were worth."""

    rollout: int
    """Up to which rollout, counted in the order they were made."""
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float
    """Standard deviation."""


class VersionScore(TypedDict):
    """What the rollouts with one version of the resources were worth."""

    resources_id: str
    version: int
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float


class ErrorCount(TypedDict):
    """Rollouts that failed for what seems to be the same reason."""

    message: str
    count: int
    rollout_id: str
    """The newest of them."""


class Summary(TypedDict):
    """How the run is going."""

    time: float
    rollouts: dict[str, int]
    """By status; statuses that no rollout has are left out."""
    workers: dict[str, int]
    ended_per_minute: float | None
    """None when nothing has ended, or nothing is left."""
    seconds_left: float | None
    ended_per_minute_by_worker: dict[str, float]
    steps: list[RewardStep]
    versions: list[VersionScore]
    """Oldest first; the newest 200 versions that have rewards."""
    errors: list[ErrorCount]
    """Of the newest 300 that failed, most frequent first."""


@dataclass(frozen=True)
class Route:
    """How an operation is reached over HTTP, and whether it changes anything."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    mutates: bool

    @property
    def batchable(self) -> bool:
        """A matter of a moment, so that it may travel in one request with others."""
        return self.mutates or self.name.startswith("get_")

    @property
    def path_parameters(self) -> list[str]:
        """Names between braces in the path, in order."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="type[LightningStore]")


def route(at: str, *, mutates: bool = False) -> Callable[[F], F]:
    """Mark a method as an operation: `at` is its method and path, `"GET /query_spans/{rollout_id}"`."""
    method, _, path = at.partition(" ")

    def mark(operation: F) -> F:
        assert method in ("GET", "POST")
        operation.route = Route(operation.__name__, method, path, mutates)  # pyright: ignore[reportFunctionMemberAccess]
        return operation

    return mark


class LightningStore:
    """Database and message queue in one: where algorithm, runners and everything else meet.

    Every method may be called from any event loop and any thread. Times are seconds since the epoch. An update of
    something unknown raises `NotFound` (a ValueError and a LookupError), a query of it gives nothing. A change that
    does not fit the state raises `Conflict`; succeeded, failed and cancelled are final.
    """

    # Rollouts

    @route("POST /start_rollout", mutates=True)
    async def start_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        """Begin a rollout that the caller carries out itself: already `preparing`, never in the queue."""
        raise NotImplementedError

    @route("POST /enqueue_rollout", mutates=True)
    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        """Put a task at the queue's tail. Without `resources_id` it gets the latest resources, fixed now."""
        raise NotImplementedError

    @route("POST /enqueue_many_rollouts", mutates=True)
    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        """Enqueue all of them in this order, or none."""
        raise NotImplementedError

    @route("GET /dequeue_rollout", mutates=True)
    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        """Claim the oldest queued rollout: a new attempt, `preparing`. None when there is none.

        With `wait`, None only after so many seconds without one.
        """
        raise NotImplementedError

    @route("POST /dequeue_many_rollouts", mutates=True)
    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> list[AttemptedRollout]:
        """Claim up to `limit` rollouts, and no more than 10,000 at once, oldest first.

        With `wait`, at least one unless so many seconds pass.
        """
        raise NotImplementedError

    @route("POST /start_attempt", mutates=True)
    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Retry by hand: a new attempt at once, whatever `max_attempts` says. A live one is ended as failed."""
        raise NotImplementedError

    @route("POST /query_rollouts")
    async def query_rollouts(
        self,
        rollout_id_in: Sequence[str] | None = None,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        resources_id: str | None = None,
        resources_version: int | None = None,
        text_contains: str | None = None,
        cut_at: int | None = None,
        cursor: str | None = None,
    ) -> PaginatedResult[AnyRollout]:
        """Rollouts that fit the filters, in the order they were made unless `sort_by` names a field.

        `limit` -1 is all, 0 none. None sorts last; `sort_by="failed_first"` is what it says. `text_contains` is a
        literal part of the id or of the input's JSON text. With `cut_at`, an input whose JSON text is longer comes as
        the beginning of that text. With the `cursor` of a page in this order, the items that come behind that page.
        `status` and `rollout_ids` are older names of `status_in` and `rollout_id_in`.
        Raises `InvalidInput` naming the allowed fields where `sort_by` is not one.
        """
        raise NotImplementedError

    @route("GET /get_rollout_by_id/{rollout_id}")
    async def get_rollout_by_id(self, rollout_id: str) -> AnyRollout | None:
        """The rollout, with its latest attempt where it has one."""
        raise NotImplementedError

    @route("POST /update_rollout", mutates=True)
    async def update_rollout(
        self,
        rollout_id: str,
        input: Any = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> AnyRollout:
        """Change what is given. Status `cancelled` cancels; `queuing` or `requeuing` puts it in the queue, once."""
        raise NotImplementedError

    @route("POST /wait_for_rollouts")
    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        """Wait until all have ended or `timeout` seconds passed; return those that have, in the order given.

        None waits without end. Raises `NotFound` for an id that the store does not know.
        """
        raise NotImplementedError

    # Attempts

    @route("GET /query_attempts/{rollout_id}")
    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        cursor: str | None = None,
    ) -> PaginatedResult[Attempt]:
        """All attempts of a rollout, first to latest."""
        raise NotImplementedError

    @route("GET /get_latest_attempt/{rollout_id}")
    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """The attempt that speaks for the rollout."""
        raise NotImplementedError

    @route("POST /update_attempt", mutates=True)
    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        """Report on an attempt (`"latest"` for the latest one); its rollout's status follows.

        Raises `StaleAttempt` or `FinalStatus`, and changes nothing, when the attempt no longer speaks for its rollout.
        """
        raise NotImplementedError

    # Resources

    @route("POST /add_resources", mutates=True)
    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store a new bundle of resources as version 1 of a new id; it becomes the latest."""
        raise NotImplementedError

    @route("POST /update_resources", mutates=True)
    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store the next version under this id (the first, if it is new); it becomes the latest."""
        raise NotImplementedError

    @route("POST /query_resources")
    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        cursor: str | None = None,
    ) -> PaginatedResult[ResourcesUpdate]:
        """Every version of every bundle, in the order they were stored unless `sort_by` names a field.

        API keys are hidden (`***`); `get_resources_by_id` and `get_latest_resources` give them.
        """
        raise NotImplementedError

    @route("GET /get_resources_by_id/{resources_id}")
    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        """One version of a bundle; without `version` its newest."""
        raise NotImplementedError

    @route("GET /get_latest_resources")
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """The version stored last, of whatever id."""
        raise NotImplementedError

    # Spans

    @route("POST /add_span", mutates=True)
    async def add_span(self, span: Span) -> Span | None:
        """Store a span and return it as stored; None when its attempt has a span of this id already.

        Raises `NotFound` when there is no such attempt.
        """
        raise NotImplementedError

    @route("POST /add_many_spans", mutates=True)
    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans in this order, all or none; return those that were not there already."""
        raise NotImplementedError

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """`add_span` of an OpenTelemetry span."""
        return await self.add_span(Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0))

    @route("GET /get_next_span_sequence_id/{rollout_id}/{attempt_id}", mutates=True)
    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next number within an attempt; each is given once."""
        raise NotImplementedError

    @route("POST /get_many_span_sequence_ids", mutates=True)
    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        """One number for each (rollout_id, attempt_id) pair."""
        raise NotImplementedError

    @route("GET /query_spans/{rollout_id}")
    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        cut_at: int | None = None,
        cursor: str | None = None,
    ) -> PaginatedResult[Span]:
        """Spans of a rollout, or of one of its attempts (`"latest"` for the latest), in their order.

        Each filter is an exact value, or with `_contains` a literal part of it. With `cut_at`, a span of more bytes
        comes with its longer attribute values cut, and its size as `agentlightning.cut`.
        """
        raise NotImplementedError

    # Workers

    @route("POST /update_worker", mutates=True)
    async def update_worker(
        self,
        worker_id: str,
        heartbeat_stats: dict[str, Any] | None = None,
        attempts: Sequence[AttemptRef] | None = None,
    ) -> Worker:
        """A heartbeat: a sign of life of the worker and of the `attempts` it names (None: of all it holds).

        The reply's `stale_attempts` are those it named that are no longer live: cancelled, ended, or given to another.
        """
        raise NotImplementedError

    @route("POST /query_workers")
    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        cursor: str | None = None,
    ) -> PaginatedResult[Worker]:
        """Workers that the store has heard of."""
        raise NotImplementedError

    @route("GET /get_worker_by_id/{worker_id}")
    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """The worker as the store last saw it."""
        raise NotImplementedError

    # The store itself

    @route("POST /hold_lease", mutates=True)
    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        """Hold what only one may hold at a time, for `seconds` from now; 0 lets go. The lease as it now stands.

        It is the caller's when its `holder` is: another's lease is left alone until that has let go or run out.
        """
        raise NotImplementedError

    @route("GET /statistics")
    async def statistics(self) -> Statistics:
        """How much the store holds, by kind and status."""
        raise NotImplementedError

    @route("GET /summary")
    async def summary(self) -> Summary:
        """How the run is going: rewards, rates, errors. Some moments old where making it takes long."""
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        """What callers of this store may rely on."""
        raise NotImplementedError

    @property
    def is_unreachable(self) -> bool:
        """Whether it has stopped answering; calls then wait until it is back."""
        return False

    def otlp_traces_endpoint(self) -> str | None:
        """The URL that takes OTLP/HTTP traces, where the store is served."""
        return None

    async def close(self) -> None:
        """Let go of files, connections and threads. The store cannot be used afterwards."""

    async def __aenter__(self) -> LightningStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def operations() -> Iterator[tuple[Route, Callable[..., Awaitable[Any]]]]:
    """Every operation of the contract, in the order it is written here."""
    for member in vars(LightningStore).values():
        if isinstance(getattr(member, "route", None), Route):
            yield member.route, member


def implement_operations(
    make: Callable[[Route, Callable[..., Awaitable[Any]]], Callable[..., Any]],
) -> Callable[[S], S]:
    """A class decorator that gives the class every operation, each made by `make(route, method)`."""

    def derive(cls: S) -> S:
        for at, method in operations():
            operation = make(at, method)
            operation.__name__, operation.__doc__ = at.name, method.__doc__
            operation.__qualname__ = f"{cls.__qualname__}.{at.name}"
            operation.__signature__ = inspect.signature(method)  # pyright: ignore[reportFunctionMemberAccess]
            setattr(cls, at.name, operation)
        return cls

    return derive
