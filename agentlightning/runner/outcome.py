"""What came of an agent: how what it returned or raised is understood."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, cast

from opentelemetry.sdk.trace import ReadableSpan

from ..errors import AgentError
from ..types import AttemptedRollout, Span, SpanCoreFields

AnySpan = Span | ReadableSpan | SpanCoreFields

MAX_REASON: Final = 2_000
MAX_TRACEBACK: Final = 16_000
"""Characters kept: enough for the frames that matter, little enough to list thousands of attempts."""

PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and what is to be stored of it."""

    status: Literal["succeeded", "failed", "timeout", "unresponsive"]
    reward: float | None = None
    spans: Sequence[AnySpan] = ()
    error: BaseException | None = None
    reason: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the attempt's metadata says of it."""
        found = {"reason": self.reason, "traceback": self.traceback}
        return {key: text for key, text in found.items() if text}

    @cached_property
    def traceback(self) -> str | None:
        """Where the error came from, fit to be stored; None when nothing was raised."""
        return traceback_of(self.error)


def returned(value: Any, *, by: str) -> Outcome:
    """What it means that the agent called `by` returned `value`."""
    try:
        if value is None:
            return Outcome("succeeded")
        if isinstance(value, Real):
            return Outcome("succeeded", reward=_reward(value, by))
        return Outcome("succeeded", spans=_spans(value, by))
    except AgentError as error:
        return raised(error)


def raised(error: BaseException) -> Outcome:
    """What it means that `error` ended an attempt."""
    return Outcome("failed", error=error, reason=reason_of(error))


def reason_of(error: BaseException) -> str:
    """`ValueError: message`, fit to be stored."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    match error:
        case SystemExit():
            message = f"the agent asked Python to exit ({message})"
        case KeyError():
            message = f"key {message}"
        case _:
            pass
    kind = type(error).__name__
    return storable(f"{kind}: {message}" if message else kind)[:MAX_REASON]


def traceback_of(error: BaseException | None) -> str | None:
    """Where `error` came from, without our own frames on top; None when it was never raised."""
    if error is None or error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_exception(type(error), error, without_our_frames(error.__traceback__))
    except Exception:
        return None
    text = storable("".join(lines))
    if len(text) <= MAX_TRACEBACK:
        return text
    head, tail = MAX_TRACEBACK // 4, MAX_TRACEBACK * 3 // 4
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


def without_our_frames(trace: TracebackType) -> TracebackType | None:
    """The traceback from the agent's first frame on; the whole of it when it has none."""
    theirs: TracebackType | None = trace
    while theirs is not None and theirs.tb_frame.f_code.co_filename.startswith(PACKAGE):
        theirs = theirs.tb_next
    return theirs or trace


def storable(text: str) -> str:
    """The text without what JSON and databases refuse: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def bound(span: AnySpan, rollout: AttemptedRollout) -> Span:
    """The span as one of this attempt."""
    rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
    match span:
        case Span(rollout_id=there, attempt_id=then) if (there, then) == (rollout_id, attempt_id):
            return span
        case Span():
            return span.model_copy(update={"rollout_id": rollout_id, "attempt_id": attempt_id, "sequence_id": 0})
        case SpanCoreFields():
            return Span.from_core_fields(span, rollout_id=rollout_id, attempt_id=attempt_id)
        case _:
            return Span.from_opentelemetry(span, rollout_id, attempt_id)


def _reward(value: Real, by: str) -> float:
    try:
        reward = float(value)
    except OverflowError:
        reward = math.inf
    if not math.isfinite(reward):
        raise AgentError(f"agent {by} returned {reward} as its reward; a reward is a finite number")
    return reward


def _spans(value: Any, by: str) -> list[AnySpan]:
    if not isinstance(value, (list, tuple)):
        raise _not_a_result(by, type(value).__name__)
    kind = type(cast("Any", value)).__name__
    spans = list(cast("list[Any]", value))
    for span in spans:
        if not isinstance(span, AnySpan):
            raise _not_a_result(by, f"{kind} with {type(span).__name__} in it")
    return spans


def _not_a_result(by: str, what: str) -> AgentError:
    return AgentError(
        f"agent {by} returned a {what}; an agent returns its reward (float, int or bool), a list of spans, or None"
    )
