"""The store's contract: every operation with its name, types and guarantees.

The HTTP routes, the client, the OpenAPI document and the contract tests are derived from `LightningStore`. To add an
operation, add a method here and its implementation in `sql/`.
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
    """The type of `UNSET`, the default of parameters for which None is a valid value."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


@dataclass(frozen=True)
class Route:
    """The HTTP route of an operation, and whether the operation changes the store."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    mutates: bool

    @property
    def batchable(self) -> bool:
        """True if the operation may be part of a batch: it changes the store or looks up a single object."""
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

    Every method may be called from any event loop and any thread. Times are seconds since the epoch. Updating an
    unknown object raises `NotFound` (a ValueError and a LookupError); querying one returns None or an empty list. A
    change that conflicts with the current status raises `Conflict`. Succeeded, failed and cancelled are final statuses.
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
        """Start a rollout that the caller executes, without queueing it first. Its status is `preparing`."""
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
        """Append a task to the queue. By default, the task uses the latest resources at the time of this call."""
        raise NotImplementedError

    @route("POST /enqueue_many_rollouts", mutates=True)
    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        """Enqueue rollouts in the given order, either all of them or none."""
        raise NotImplementedError

    @route("GET /dequeue_rollout", mutates=True)
    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        """Claim the oldest queued rollout and start an attempt. Return None if none is queued within `wait` seconds."""
        raise NotImplementedError

    @route("POST /dequeue_many_rollouts", mutates=True)
    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> list[AttemptedRollout]:
        """Claim up to `limit` (at most 10,000) rollouts, oldest first, waiting up to `wait` seconds for the first."""
        raise NotImplementedError

    @route("POST /start_attempt", mutates=True)
    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Start a new attempt of a rollout, regardless of `max_attempts`. A live attempt ends as failed."""
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

        A `limit` of -1 returns all rollouts, 0 returns none. Missing values sort last; `sort_by="failed_first"` sorts
        failed rollouts first. `text_contains` is a literal part of the id or of the input's JSON text. An input whose
        JSON text exceeds `cut_at` bytes is replaced by the beginning of that text. `cursor` continues after the page
        that returned it, in the same order. `status` and `rollout_ids` are older names for the parameters `status_in`
        and `rollout_id_in`. Raises an `InvalidInput` that lists the sortable fields if `sort_by` is invalid.
        """
        raise NotImplementedError

    @route("GET /get_rollout_by_id/{rollout_id}")
    async def get_rollout_by_id(self, rollout_id: str) -> AnyRollout | None:
        """Return the rollout, with its latest attempt if it has one."""
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

        The status `cancelled` cancels the rollout. The status `queuing` or `requeuing` adds the rollout to the queue
        unless it is already queued.
        """
        raise NotImplementedError

    @route("POST /wait_for_rollouts")
    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        """Wait up to `timeout` seconds for all rollouts to end, and return those that have ended, in the given order.

        With a `timeout` of None, wait indefinitely. Raises `NotFound` for an unknown id.
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
        """Return a rollout's latest attempt, which determines its status, or None before the first attempt."""
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
        """Update an attempt and its rollout's status. The `attempt_id` may be `"latest"`.

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
        """Store resources as the next version of this id (1 if the id is new). They become the latest resources."""
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
        """Return every version of all resources, in the order in which they were stored unless `sort_by` names a field.

        API keys are masked (`***`). To read them, use `get_resources_by_id` or `get_latest_resources`.
        """
        raise NotImplementedError

    @route("GET /get_resources_by_id/{resources_id}")
    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        """Return the given version of the resources, or the newest version if `version` is None."""
        raise NotImplementedError

    @route("GET /get_latest_resources")
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the resources that were stored most recently, under any id."""
        raise NotImplementedError

    # Spans

    @route("POST /add_span", mutates=True)
    async def add_span(self, span: Span) -> Span | None:
        """Store and return a span. Return None if its attempt already has a span with this id. Raises `NotFound`."""
        raise NotImplementedError

    @route("POST /add_many_spans", mutates=True)
    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans in the given order, either all of them or none, and return those that are not duplicates."""
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
        """Reserve one span sequence number for each pair of rollout id and attempt id."""
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
        """Return the spans of a rollout or of one attempt (`"latest"` for the latest), by default in sequence order.

        Each filter matches an exact value, or any literal part of it if the filter's name ends in `_contains`.
        In a span of more than `cut_at` bytes, long attribute values are truncated and `agentlightning.cut` is set to
        the original size in bytes.
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
        """Record a heartbeat for the worker and the given `attempts`. None means all of the worker's live attempts.

        The result's `stale_attempts` are those attempts that are no longer live: cancelled, ended, or superseded.
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
        """Return the workers that have claimed a rollout or sent a heartbeat."""
        raise NotImplementedError

    @route("GET /get_worker_by_id/{worker_id}")
    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Return the worker with its last known status."""
        raise NotImplementedError

    # The store itself

    @route("POST /hold_lease", mutates=True)
    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        """Acquire or renew a named lock for `seconds`, or release it with 0, and return its current state.

        The caller has the lease if the returned `holder` equals the `holder` argument. Otherwise, another holder keeps
        the lease until that holder releases it or the lease expires.
        """
        raise NotImplementedError

    @route("GET /statistics")
    async def statistics(self) -> Statistics:
        """Return the number of stored objects by kind and status."""
        raise NotImplementedError

    @route("GET /summary")
    async def summary(self) -> Summary:
        """Return the run's rewards, rates and errors. Under load, the result may be up to a second old."""
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees that this store gives its callers."""
        raise NotImplementedError

    @property
    def is_unreachable(self) -> bool:
        """True while the store is not responding. Calls wait until it responds again."""
        return False

    def otlp_traces_endpoint(self) -> str | None:
        """Return the URL that accepts OTLP/HTTP traces, or None if the store is not served over HTTP."""
        return None

    async def close(self) -> None:
        """Close files, connections and threads. The store cannot be used afterwards."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def operations() -> Iterator[tuple[Route, Callable[..., Awaitable[Any]]]]:
    """Yield every operation of the contract, in the order of this file."""
    for member in vars(LightningStore).values():
        if isinstance(getattr(member, "route", None), Route):
            yield member.route, member


def implement_operations(
    make: Callable[[Route, Callable[..., Awaitable[Any]]], Callable[..., Any]],
) -> Callable[[S], S]:
    """Return a class decorator that adds a method for every operation, created by `make(route, method)`."""

    def derive(cls: S) -> S:
        for at, method in operations():
            operation = make(at, method)
            operation.__name__, operation.__doc__ = at.name, method.__doc__
            operation.__qualname__ = f"{cls.__qualname__}.{at.name}"
            operation.__signature__ = inspect.signature(method)  # pyright: ignore[reportFunctionMemberAccess]
            setattr(cls, at.name, operation)
        return cls

    return derive
