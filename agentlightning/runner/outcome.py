"""Call the agent and derive the outcome of the attempt from the return value or the exception."""

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
from ..types import AttemptedRollout, NamedResources, Span, SpanCoreFields

AnySpan = Span | ReadableSpan | SpanCoreFields

MAX_REASON: Final = 2_000
MAX_TRACEBACK: Final = 16_000
"""Maximum number of characters in a traceback: enough for the relevant frames, but small enough to include in a list
of thousands of attempts."""

CANCELLATION_GRACE_SECONDS: Final = 3.0
"""Time in seconds that a cancelled agent is given to clean up before the call is abandoned."""

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
        """The metadata to store with the attempt."""
        fields = {"reason": self.reason, "traceback": self.traceback}
        return {key: text for key, text in fields.items() if text}

    @cached_property
    def traceback(self) -> str | None:
        """Traceback of the exception as text that can be stored, or None if nothing was raised."""
        return format_traceback(self.error)


_abandoned: set[asyncio.Task[Outcome]] = set()
"""References to tasks that did not end when they were cancelled. Without a reference, a task could be garbage-collected
before it ends, and asyncio would log an error."""


async def invoke(agent: LitAgent[Any], rollout: AttemptedRollout, resources: NamedResources) -> Outcome:
    """Call the agent's method for the rollout: an async method in this task, a sync method in a new thread.

    Any exception that the agent raises becomes an outcome, except a KeyboardInterrupt in this thread.
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
    """Cancel the call and wait briefly for it to end. Return False if it has not ended and is therefore abandoned.

    A sync agent cannot be stopped: its thread continues to run, and its result is discarded.
    """
    task.cancel()
    await asyncio.wait({task}, timeout=CANCELLATION_GRACE_SECONDS)
    if task.done():
        return True
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)
    return False


def outcome_of_value(value: Any, *, agent: Any) -> Outcome:
    """Return the outcome of an attempt whose agent returned `value`."""
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
    """Return a description of `error`, such as `ValueError: message`, as text that can be stored."""
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
    """Return the traceback of `error`, or None if `error` was never raised or cannot be formatted.

    The leading frames of this package are omitted, and a long traceback is shortened.
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
    """Replace the characters that JSON and databases reject: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def attach_to_attempt(span: AnySpan, rollout: AttemptedRollout) -> Span:
    """Convert the span to a `Span` with the ids of this rollout and its attempt."""
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
    # Catch exceptions inside the thread: an asyncio task cannot pass on a StopIteration or KeyboardInterrupt.
    try:
        return method(*arguments)
    except BaseException as error:
        return outcome_of_error(error)


def _agent_frames(trace: TracebackType) -> TracebackType | None:
    """Return the traceback starting at the agent's first frame, or the whole traceback if there is no such frame."""
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
