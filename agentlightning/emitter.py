"""Emitters: functions that record rewards, annotations, messages, objects, exceptions and operations as spans.

The spans belong to the attempt that the active tracer is recording. With `propagate=False`, a span is returned but not
stored.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from . import semconv
from .adapter.rewards import (
    find_final_reward as find_final_reward,
    find_reward_spans as find_reward_spans,
    get_message_value as get_message_value,
    get_object_value as get_object_value,
    get_reward_value as get_reward_value,
    get_rewards_from_span as get_rewards_from_span,
    is_reward_span as is_reward_span,
)
from .errors import InvalidInput, NoActiveTracer
from .payload import dumps
from .tracer.base import Tracer, get_active_tracer
from .tracer.scope import ManualSpan, exception_attributes
from .types import SpanCoreFields, TraceStatus

F = TypeVar("F", bound=Callable[..., Any])

_LITERALS = (str, bool, int, float)
_MAX_REPR_LENGTH = 1_000


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Record a reward for the attempt, or several named rewards.

    If `reward` is a dict, `primary_key` is required and selects the reward to optimise. If `reward` is a number,
    `primary_key` is its name. Raises `InvalidInput` if `primary_key` is not in the dict, or if a reward is not a finite
    number.
    """
    rewards = _primary_first(reward, primary_key) if isinstance(reward, Mapping) else {primary_key or "primary": reward}
    recorded: dict[str, Any] = {}
    for n, (name, value) in enumerate(rewards.items()):
        recorded[f"{semconv.REWARDS}.{n}.name"] = name
        recorded[f"{semconv.REWARDS}.{n}.value"] = _finite(value, name)
    return _emit(semconv.ANNOTATION, {**recorded, **_flatten(attributes or {})}, propagate=propagate)


def emit_annotation(annotation: Mapping[str, Any], *, propagate: bool = True) -> SpanCoreFields:
    """Record named facts about the attempt. Nested values are flattened: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    return _emit(semconv.ANNOTATION, _flatten(annotation), propagate=propagate)


def emit_message(
    message: str, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Record a text message."""
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput(
            f"a message must be a string, not {type(message).__name__}; use emit_object for other values"
        )
    return _emit(semconv.MESSAGE, {semconv.MESSAGE_BODY: message, **_flatten(attributes or {})}, propagate=propagate)


def emit_object(value: Any, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a JSON value. `get_object_value` reads it back from the span."""
    recorded: dict[str, Any] = {semconv.OBJECT_TYPE: type(value).__name__}
    if isinstance(value, _LITERALS):
        recorded[semconv.OBJECT_LITERAL] = value
    else:
        recorded[semconv.OBJECT_JSON] = dumps(value, field="the object").decode()
    return _emit(semconv.OBJECT, {**recorded, **_flatten(attributes or {})}, propagate=propagate)


def emit_exception(
    error: BaseException, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Record an exception that the agent has handled."""
    status = TraceStatus(status_code="ERROR", description=f"{type(error).__name__}: {error}")
    recorded = {**exception_attributes(error), **_flatten(attributes or {})}
    return _emit(semconv.EXCEPTION, recorded, status=status, propagate=propagate)


@dataclass(eq=False)
class OperationSpan:
    """Records steps of the agent as spans. A step is a `with` block or a call to a decorated function."""

    _name: str | None
    _attributes: Mapping[str, Any]
    _propagate: bool
    _span: ManualSpan | None = None

    def set_input(self, *args: Any, **kwargs: Any) -> None:
        """Record the operation's inputs. Positional arguments are recorded under their index."""
        for name, value in [*enumerate(args), *kwargs.items()]:
            self.set_attributes({f"{semconv.OPERATION_INPUT}.{name}": _to_attribute(value)})

    def set_output(self, output: Any) -> None:
        """Record the operation's output."""
        self.set_attributes({semconv.OPERATION_OUTPUT: _to_attribute(output)})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to the operation's span."""
        if self._span is None:
            raise InvalidInput("the operation has not started; use it as `with agl.operation(…) as op:`")
        self._span.set_attributes(_flatten(attributes))

    def __enter__(self) -> OperationSpan:
        attributes = {semconv.OPERATION_NAME: self._name or "operation", **_flatten(self._attributes)}
        if self._propagate:
            self._span = _tracer().operation_context(semconv.OPERATION, attributes)
        else:
            self._span = ManualSpan(semconv.OPERATION, attributes, tracer=None, scope=None)
        self._span.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        assert self._span
        self._span.__exit__(kind, error, traceback)

    async def __aenter__(self) -> OperationSpan:
        return self.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        self.__exit__(*error)

    def __call__(self, fn: F) -> F:
        """Decorate `fn` so that every call to it is recorded as an operation, with the arguments and the result."""
        name, signature = self._name or fn.__name__, inspect.signature(fn)

        @functools.wraps(fn)
        async def async_operation(*args: Any, **kwargs: Any) -> Any:
            with OperationSpan(name, self._attributes, self._propagate) as step:
                step.set_input(**_arguments(signature, args, kwargs))
                output = await fn(*args, **kwargs)
                step.set_output(output)
                return output

        @functools.wraps(fn)
        def sync_operation(*args: Any, **kwargs: Any) -> Any:
            with OperationSpan(name, self._attributes, self._propagate) as step:
                step.set_input(**_arguments(signature, args, kwargs))
                output = fn(*args, **kwargs)
                step.set_output(output)
                return output

        return cast("F", async_operation if inspect.iscoroutinefunction(fn) else sync_operation)


@overload
def operation(fn: F, /) -> F: ...
@overload
def operation(
    fn: None = None, /, *, name: str | None = None, propagate: bool = True, **attributes: Any
) -> OperationSpan: ...
def operation(
    fn: F | None = None, /, *, name: str | None = None, propagate: bool = True, **attributes: Any
) -> F | OperationSpan:
    """Record a step of the agent: `@operation`, `@operation(name="search")`, `with operation(name="search") as op:`.

    Used as a decorator on a sync or async function, it records the arguments and the result of every call. Used as a
    context manager, it records the values passed to `op.set_input` and `op.set_output`. Spans that start during the
    operation become children of its span.
    """
    step = OperationSpan(name, attributes, propagate)
    return step(fn) if fn else step


def _emit(
    name: str, attributes: Mapping[str, Any], *, status: TraceStatus | None = None, propagate: bool
) -> SpanCoreFields:
    if propagate:
        return _tracer().create_span(name, attributes, status=status)
    now = time.time()
    status = status or TraceStatus(status_code="OK")
    return SpanCoreFields(name=name, attributes=dict(attributes), status=status, start_time=now, end_time=now)


def _tracer() -> Tracer:
    if tracer := get_active_tracer():
        return tracer
    raise NoActiveTracer


def _primary_first(rewards: Mapping[str, float], primary_key: str | None) -> dict[str, float]:
    if primary_key is None or primary_key not in rewards:
        raise InvalidInput(
            f"a dict of rewards needs a primary reward: set primary_key to one of {', '.join(rewards)}",
            field="primary_key",
        )
    return {primary_key: rewards[primary_key], **rewards}


def _finite(value: Any, name: str) -> float:
    try:
        number = math.nan if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(f"the reward {name!r} must be a finite number, not {value!r}", field="reward")
    return number


def _flatten(attributes: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in attributes.items():
        if _is_plain(value):
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            flat.update(_flatten(cast("Mapping[str, Any]", value), f"{prefix}{key}."))
        elif isinstance(value, (list, tuple)):
            flat.update(_flatten(dict(enumerate(cast("Sequence[Any]", value))), f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = _to_attribute(value)
    return flat


def _is_plain(value: Any) -> bool:
    """Return True if OpenTelemetry accepts the value unchanged: a primitive, or a list of primitives of one type."""
    if isinstance(value, (list, tuple)):
        kinds: set[Any] = {type(item) for item in cast("Sequence[Any]", value)}
        return len(kinds) <= 1 and kinds <= set(_LITERALS)
    return isinstance(value, _LITERALS)


def _to_attribute(value: Any) -> Any:
    """Return a primitive unchanged. Return any other value as JSON text or, if that is impossible, as its `repr`."""
    if isinstance(value, _LITERALS):
        return value
    try:
        return dumps(value).decode()
    except Exception:  # agents pass objects of any type, and recording must never make an agent fail
        return f"{value!r:.{_MAX_REPR_LENGTH}}"


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return {}  # the arguments do not fit the signature, so the call itself will raise the error
    return {name: value for name, value in bound.items() if name not in ("self", "cls")}
