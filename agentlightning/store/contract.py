"""The store's contract: every operation with its name, types and guarantees.

The HTTP routes, the client and the OpenAPI document are derived from `LightningStore`. To add an operation, add a
method here and implement it in `sql/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

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
from .results import Capabilities, Lease, Statistics, Summary

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

FilterLogic = Literal["and", "or"]
SortOrder = Literal["asc", "desc"]
AnyRollout = AttemptedRollout | Rollout


class Unset:
    """The type of `UNSET`, the default for parameters of update operations. `UNSET` leaves a field unchanged."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


@dataclass(frozen=True)
class Route:
    """The name and HTTP route of an operation, and whether the operation changes the store."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    mutates: bool

    @property
    def batchable(self) -> bool:
        """True if the operation may be sent in a batch: it either changes the store or looks up a single object."""
        return self.mutates or self.name.startswith("get_")

    @property
    def path_parameters(self) -> list[str]:
        """Names of the parameters in the path, in order."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="type[LightningStore]")


def route(at: str, *, mutates: bool = False) -> Callable[[F], F]:
    """Mark a method as an operation. `at` is the HTTP method and path, such as `"GET /query_spans/{rollout_id}"`."""
    method, _, path = at.partition(" ")

    def mark(operation: F) -> F:
        assert method in ("GET", "POST")
        operation.route = Route(operation.__name__, method, path, mutates)  # pyright: ignore[reportFunctionMemberAccess]
        return operation

    return mark


class LightningStore:
    """Combined database and task queue, shared by the algorithm, the runners and all other components.

    Methods may be called from any thread and any event loop. Timestamps are in seconds since the epoch. Changing an
    unknown rollout or attempt, or adding a span to one, raises `NotFound` (a ValueError and a LookupError). Querying an
    unknown object returns None or an empty list. A change that conflicts with the current status raises `Conflict`. The
    rollout statuses `succeeded`, `failed` and `cancelled` are final: a rollout with such a status has ended.
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
        """Create a rollout, bypass the queue, and start an attempt for the caller. Both have the status `preparing`."""
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
        """Create a rollout and append it to the queue. If `resources_id` is None, it uses the newest resources."""
        raise NotImplementedError

    @route("POST /enqueue_many_rollouts", mutates=True)
    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        """Enqueue rollouts in order, either all of them or none; over HTTP, this holds for each 10,000 of them."""
        raise NotImplementedError

    @route("GET /dequeue_rollout", mutates=True)
    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        """Claim the first queued rollout and start an attempt. Return None if none is queued within `wait` seconds."""
        raise NotImplementedError

    @route("POST /dequeue_many_rollouts", mutates=True)
    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> list[AttemptedRollout]:
        """Claim up to `limit` rollouts (at most 10,000), oldest first. Wait up to `wait` seconds for the first one."""
        raise NotImplementedError

    @route("POST /start_attempt", mutates=True)
    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Start a new attempt of a rollout, regardless of `max_attempts`. An attempt in progress is set to failed."""
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
        """Return the rollouts that match the filters, in order of creation unless `sort_by` names a field.

        A `limit` of -1 returns all rollouts, and 0 returns none. Missing values sort last; `sort_by="failed_first"`
        sorts failed rollouts first. `text_contains` is a literal substring of the id or of the input's JSON text. An
        input whose JSON text exceeds `cut_at` bytes is replaced with the beginning of that text. To get the next page,
        pass the `cursor` of the current page. `status` and `rollout_ids` are older names for `status_in` and
        `rollout_id_in`. Raises an `InvalidInput` that lists the sortable fields if `sort_by` is invalid.
        """
        raise NotImplementedError

    @route("GET /get_rollout_by_id/{rollout_id}")
    async def get_rollout_by_id(self, rollout_id: str) -> AnyRollout | None:
        """Return the rollout, including its latest attempt if it has one, or None if the id is unknown."""
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
        """Change the given fields of a rollout.

        Setting `status` to `cancelled` cancels the rollout. Setting it to `queuing` or `requeuing` adds the rollout to
        the queue, unless it is already queued.
        """
        raise NotImplementedError

    @route("POST /wait_for_rollouts")
    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        """Wait up to `timeout` seconds for the rollouts to end. Return those that have ended, in the given order.

        If `timeout` is None, wait indefinitely. Raises `NotFound` for an unknown id.
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
        """Return the attempts of a rollout, by default from the first to the latest."""
        raise NotImplementedError

    @route("GET /get_latest_attempt/{rollout_id}")
    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the latest attempt of a rollout, or None if the rollout has no attempts or its id is unknown."""
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
        """Change the given fields of an attempt, and update its rollout's status. `attempt_id` may be `"latest"`.

        Raises `StaleAttempt` if a later attempt exists, and `FinalStatus` if the attempt or its rollout has ended.
        """
        raise NotImplementedError

    # Resources

    @route("POST /add_resources", mutates=True)
    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store resources under a new id, as version 1. They become the latest resources."""
        raise NotImplementedError

    @route("POST /update_resources", mutates=True)
    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store resources under this id as the next version (1 if the id is new). They become the latest resources."""
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
        """Return all versions of the resources that match the filters, oldest first unless `sort_by` names a field.

        API keys are masked (`***`). To read them, use `get_resources_by_id` or `get_latest_resources`.
        """
        raise NotImplementedError

    @route("GET /get_resources_by_id/{resources_id}")
    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        """Return the given version of the resources, or the newest version if `version` is None."""
        raise NotImplementedError

    @route("GET /get_latest_resources")
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the most recently stored resources, regardless of their id."""
        raise NotImplementedError

    # Spans

    @route("POST /add_span", mutates=True)
    async def add_span(self, span: Span) -> Span | None:
        """Store and return a span, or return None if the attempt already has a span with this id."""
        raise NotImplementedError

    @route("POST /add_many_spans", mutates=True)
    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans in order, in one transaction (over HTTP, one for each 10,000). Skip and leave out duplicates."""
        raise NotImplementedError

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Store an OpenTelemetry span. See `add_span`."""
        return await self.add_span(Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0))

    @route("GET /get_next_span_sequence_id/{rollout_id}/{attempt_id}", mutates=True)
    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve the next sequence number for a span of an attempt. Each number is returned only once."""
        raise NotImplementedError

    @route("POST /get_many_span_sequence_ids", mutates=True)
    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        """Reserve one span sequence number for each given pair of rollout id and attempt id."""
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
        """Return the spans of a rollout or one attempt (`"latest"` for the latest one), by default in sequence order.

        A filter matches an exact value, or a literal substring if the filter's name ends in `_contains`. If a span is
        larger than `cut_at` bytes, long attribute values are truncated, events that exceed `cut_at` bytes are dropped,
        and the attribute `agentlightning.cut` is set to the original size of the span in bytes.
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
        """Record a heartbeat for the worker and for `attempts`, or for all of its live attempts if `attempts` is None.

        The result's `stale_attempts` lists the attempts to stop, for example because their rollouts were cancelled.
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
        """Return the workers that match the filters. A worker is recorded at its first claim or heartbeat."""
        raise NotImplementedError

    @route("GET /get_worker_by_id/{worker_id}")
    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Return the worker with its last known status, or None if the id is unknown."""
        raise NotImplementedError

    # The store itself

    @route("POST /hold_lease", mutates=True)
    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        """Acquire or renew the lease `name` for `seconds` seconds, or release it if `seconds` is 0. Return its state.

        The call was successful if the returned `holder` equals the `holder` argument. Otherwise, another holder keeps
        the lease until that holder releases it or the lease expires.
        """
        raise NotImplementedError

    @route("GET /statistics")
    async def statistics(self) -> Statistics:
        """Return the number of stored objects of each kind. Rollouts and workers are counted by status."""
        raise NotImplementedError

    @route("GET /summary")
    async def summary(self) -> Summary:
        """Return the run's rewards, rates and errors. If many clients poll it, a call may be delayed by up to 1 s."""
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees that this store gives its callers."""
        raise NotImplementedError

    @property
    def is_unreachable(self) -> bool:
        """True while the store is not responding. By default, calls wait until it responds again."""
        return False

    def otlp_traces_endpoint(self) -> str | None:
        """Return the URL that accepts OTLP/HTTP traces, or None if the store is not served over HTTP."""
        return None

    async def close(self) -> None:
        """Close files and connections, and stop threads. The store cannot be used afterwards."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def operations() -> Iterator[tuple[Route, Callable[..., Awaitable[Any]]]]:
    """Yield the route and the method of every operation, in the order in which this file defines them."""
    for member in vars(LightningStore).values():
        if isinstance(getattr(member, "route", None), Route):
            yield member.route, member


def implement_operations(
    make: Callable[[Route, Callable[..., Awaitable[Any]]], Callable[..., Any]],
) -> Callable[[S], S]:
    """Return a class decorator that implements every operation with a function created by `make(route, method)`."""

    def derive(cls: S) -> S:
        for at, method in operations():
            operation = make(at, method)
            operation.__name__, operation.__doc__ = at.name, method.__doc__
            operation.__qualname__ = f"{cls.__qualname__}.{at.name}"
            operation.__signature__ = inspect.signature(method)  # pyright: ignore[reportFunctionMemberAccess]
            setattr(cls, at.name, operation)
        return cls

    return derive
