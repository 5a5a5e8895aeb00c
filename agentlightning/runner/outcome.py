"""Call the agent, and convert its return value or exception to the outcome of the attempt."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, cast

from opentelemetry.sdk.trace import ReadableSpan

from ..concurrency import run_in_thread
from ..errors import AgentError
from ..litagent import LitAgent
from ..litagent.function import name_of
from ..redaction import redact
from ..types import AttemptedRollout, NamedResources, Span, SpanCoreFields

AnySpan = Span | ReadableSpan | SpanCoreFields

MAX_REASON: Final = 2_000
MAX_TRACEBACK: Final = 16_000
"""Maximum number of characters to keep from a traceback. This is enough for the relevant frames, but small enough for a
response that lists thousands of attempts."""

CANCELLATION_GRACE_SECONDS: Final = 3.0
"""Time in seconds that a cancelled agent is given to clean up before the runner stops waiting for it."""

PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Outcome:
    """The final status of an attempt, and the data to store with it."""

    status: Literal["succeeded", "failed", "timeout", "unresponsive"]
    reward: float | None = None
    spans: Sequence[AnySpan] = ()
    error: BaseException | None = None
    reason: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata to store with the attempt: the reason and the traceback, if there are any."""
        fields = {"reason": self.reason, "traceback": self.traceback}
        return {key: text for key, text in fields.items() if text}

    @cached_property
    def traceback(self) -> str | None:
        """The traceback of `error` as text that can be stored, or None if there is no traceback."""
        return format_traceback(self.error)


_abandoned: set[asyncio.Task[Outcome]] = set()
"""References to tasks that did not end in time after they were cancelled. Without a reference, a task could be
garbage-collected before it ends, and asyncio would log an error."""


async def invoke(agent: LitAgent[Any], rollout: AttemptedRollout, resources: NamedResources) -> Outcome:
    """Call the agent's method for the rollout's mode, and return the outcome.

    An async method runs in the current task, and a sync method runs in a new thread. Any exception that the agent
    raises is converted to an outcome, except a KeyboardInterrupt in the current thread, which is re-raised.
    """
    try:
        method, arguments = agent.method_for(rollout.mode), (rollout.input, resources, rollout)
        if inspect.iscoroutinefunction(method):
            value = await method(*arguments)
        else:
            value = await run_in_thread(_call, method, *arguments, name="agl-agent")
            value = await value if inspect.isawaitable(value) else value
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return outcome_of_error(error)
    return value if isinstance(value, Outcome) else outcome_of_value(value, agent=agent)


async def abandon(task: asyncio.Task[Outcome]) -> bool:
    """Cancel the task that calls the agent, and wait briefly for it to end. Return True if it has ended.

    A sync agent cannot be stopped: the task ends, but the agent's thread continues to run, and its result is discarded.
    """
    task.cancel()
    await asyncio.wait({task}, timeout=CANCELLATION_GRACE_SECONDS)
    if task.done():
        return True
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)
    return False


def outcome_of_value(value: Any, *, agent: Any) -> Outcome:
    """Return the outcome of an attempt whose agent returned `value`. An invalid value makes the attempt fail."""
    try:
        if value is None:
            return Outcome("succeeded")
        if isinstance(value, Real):
            return Outcome("succeeded", reward=_reward(value, agent))
        return Outcome("succeeded", spans=_spans(value, agent))
    except AgentError as error:
        return outcome_of_error(error)


def outcome_of_error(error: BaseException) -> Outcome:
    """Return the outcome of an attempt that ended with the exception `error`."""
    return Outcome("failed", error=error, reason=reason_of(error))


def reason_of(error: BaseException) -> str:
    """Describe `error` in text that can be stored, such as `ValueError: message`. A long description is truncated."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    if isinstance(error, SystemExit):
        message = f"the agent tried to exit the process ({message})"
    elif isinstance(error, KeyError):
        message = f"key {message}"
    kind = type(error).__name__
    return storable(f"{kind}: {message}" if message else kind)[:MAX_REASON]


def format_traceback(error: BaseException | None) -> str | None:
    """Return the traceback of `error` as text, or None if `error` was never raised or cannot be formatted.

    The frames of this package that precede the agent's first frame are omitted. If the text is too long, its middle is
    omitted as well.
    """
    if error is None or error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_exception(type(error), error, _agent_frames(error.__traceback__))
    except Exception:
        return None
    text = storable("".join(lines))
    if len(text) <= MAX_TRACEBACK:
        return text
    head, tail = MAX_TRACEBACK // 4, MAX_TRACEBACK * 3 // 4
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


def storable(text: str) -> str:
    """Redact API keys, and replace the characters that JSON or a database may reject: lone surrogates and NUL."""
    return redact(text).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def attach_to_attempt(span: AnySpan, rollout: AttemptedRollout) -> Span:
    """Convert the span to a `Span` with the ids of `rollout` and its attempt."""
    rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
    match span:
        case Span() if (span.rollout_id, span.attempt_id) == (rollout_id, attempt_id):
            return span
        case Span():
            return span.model_copy(update={"rollout_id": rollout_id, "attempt_id": attempt_id, "sequence_id": 0})
        case SpanCoreFields():
            return Span.from_core_fields(span, rollout_id=rollout_id, attempt_id=attempt_id)
        case _:
            return Span.from_opentelemetry(span, rollout_id, attempt_id)


def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    # Convert exceptions to outcomes inside the thread, because asyncio cannot pass a StopIteration or KeyboardInterrupt
    # to the code that awaits the thread's result.
    try:
        return method(*arguments)
    except BaseException as error:
        return outcome_of_error(error)


def _agent_frames(trace: TracebackType) -> TracebackType | None:
    """Return the traceback from the agent's first frame onwards, or the whole traceback if there is no such frame."""
    frame: TracebackType | None = trace
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.tb_next
    return frame or trace


def _reward(value: Real, agent: Any) -> float:
    try:
        reward = float(value)
    except OverflowError:
        reward = math.inf
    if not math.isfinite(reward):
        raise AgentError(f"agent {name_of(agent)} returned the reward {reward}; a reward must be a finite number")
    return reward


def _spans(value: Any, agent: Any) -> list[AnySpan]:
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        spans = list(cast("list[Any]", value))
        others = [type(span).__name__ for span in spans if not isinstance(span, AnySpan)]
        if not others:
            return spans
        kind = f"{kind} that contains {others[0]}"
    raise AgentError(
        f"agent {name_of(agent)} returned a {kind}; return the reward (float, int or bool), a list of spans, or None"
    )
