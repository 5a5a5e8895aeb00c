"""What user code says: rewards, notes, messages, objects, exceptions and operations, as spans of its rollout."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from . import semconv
from .adapter.rewards import (
    find_final_reward,
    find_reward_spans,
    get_message_value,
    get_object_value,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from .errors import InvalidInput, NoActiveTracer
from .payload import dumps
from .tracer.base import get_active_tracer
from .types import SpanCoreFields, TraceStatus

if TYPE_CHECKING:
    from .tracer.base import Tracer
    from .tracer.manual_span import ManualSpan

__all__ = [
    "emit_annotation",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_message_value",
    "get_object_value",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "operation",
]

F = TypeVar("F", bound=Callable[..., Any])

_LITERALS = (str, bool, int, float)
_LONGEST_REPR = 1_000


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Say what the attempt is worth; of several rewards by name, `primary_key` is the one that counts.

    Raises `InvalidInput` for what is not a finite number. With `propagate=False` the span is returned and kept nowhere.
    """
    rewards = _ordered(reward, primary_key) if isinstance(reward, Mapping) else {primary_key or "primary": reward}
    numbered: dict[str, Any] = {}
    for n, (name, value) in enumerate(rewards.items()):
        numbered[f"{semconv.REWARDS}.{n}.name"] = name
        numbered[f"{semconv.REWARDS}.{n}.value"] = _finite(value, name)
    return _emit(semconv.ANNOTATION, {**numbered, **_flat(attributes or {})}, propagate=propagate)


def emit_annotation(annotation: Mapping[str, Any], *, propagate: bool = True) -> SpanCoreFields:
    """Note something about the run. Nested values become keys with dots."""
    return _emit(semconv.ANNOTATION, _flat(annotation), propagate=propagate)


def emit_message(
    message: str, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Say something in plain words."""
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput(f"a message is a string, not {type(message).__name__}; emit_object takes the rest")
    return _emit(semconv.MESSAGE, {semconv.MESSAGE_BODY: message, **_flat(attributes or {})}, propagate=propagate)


def emit_object(value: Any, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Keep a value that JSON can hold; `get_object_value` gives it back."""
    kept: dict[str, Any] = {semconv.OBJECT_TYPE: type(value).__name__}
    if isinstance(value, _LITERALS):
        kept[semconv.OBJECT_LITERAL] = value
    else:
        kept[semconv.OBJECT_JSON] = dumps(value, field="the object").decode()
    return _emit(semconv.OBJECT, {**kept, **_flat(attributes or {})}, propagate=propagate)


def emit_exception(
    error: BaseException, *, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Note an exception that the agent has dealt with itself."""
    from .tracer.manual_span import exception_attributes

    status = TraceStatus(status_code="ERROR", description=f"{type(error).__name__}: {error}")
    noted = {**exception_attributes(error), **_flat(attributes or {})}
    return _emit(semconv.EXCEPTION, noted, status=status, propagate=propagate)


class Operation:
    """A step of the agent, as a span: around a block, or around every call of a function."""

    def __init__(self, name: str | None, attributes: Mapping[str, Any], *, propagate: bool = True) -> None:
        self._name = name
        self._attributes = attributes
        self._propagate = propagate
        self._recording: ManualSpan | None = None

    def set_input(self, *args: Any, **kwargs: Any) -> None:
        """Say what it works on."""
        named = {**{str(n): value for n, value in enumerate(args)}, **kwargs}
        self.set_attributes({f"{semconv.OPERATION_INPUT}.{name}": _told(value) for name, value in named.items()})

    def set_output(self, output: Any) -> None:
        """Say what came of it."""
        self.set_attributes({semconv.OPERATION_OUTPUT: _told(output)})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add to what is known of it."""
        if self._recording is None:
            raise InvalidInput("the operation has not begun: use it as `with agl.operation(…) as op:`")
        self._recording.set_attributes(_flat(attributes))

    def __enter__(self) -> Operation:
        named = {semconv.OPERATION_NAME: self._name or "operation", **_flat(self._attributes)}
        self._recording = _begin(named, propagate=self._propagate)
        self._recording.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._recording
        self._recording.__exit__(kind, error, where)

    async def __aenter__(self) -> Operation:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, where)

    def __call__(self, fn: F) -> F:
        """Decorate: every call of `fn` becomes an operation with its arguments and its result."""
        name, signature = self._name or fn.__name__, inspect.signature(fn)

        @functools.wraps(fn)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with Operation(name, self._attributes, propagate=self._propagate) as step:
                step.set_input(**_arguments(signature, args, kwargs))
                output = await fn(*args, **kwargs)
                step.set_output(output)
                return output

        @functools.wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            with Operation(name, self._attributes, propagate=self._propagate) as step:
                step.set_input(**_arguments(signature, args, kwargs))
                output = fn(*args, **kwargs)
                step.set_output(output)
                return output

        return cast("F", awaited if inspect.iscoroutinefunction(fn) else called)


@overload
def operation(fn: F, /) -> F: ...
@overload
def operation(
    fn: None = None, /, *, name: str | None = None, propagate: bool = True, **attributes: Any
) -> Operation: ...
def operation(
    fn: F | None = None, /, *, name: str | None = None, propagate: bool = True, **attributes: Any
) -> F | Operation:
    """A step of the agent: `@operation`, `@operation(name="search")`, or `with operation(name="search") as op:`.

    As a decorator, of sync and async functions, it records arguments and result; as a context manager what
    `op.set_input` and `op.set_output` say. Spans that begin within it are its children.
    """
    step = Operation(name, attributes, propagate=propagate)
    return step(fn) if fn else step


def _emit(
    name: str, attributes: Mapping[str, Any], *, status: TraceStatus | None = None, propagate: bool
) -> SpanCoreFields:
    if propagate:
        return _tracer().create_span(name, attributes, status=status)
    now = time.time()
    status = status or TraceStatus(status_code="OK")
    return SpanCoreFields(name=name, attributes=dict(attributes), status=status, start_time=now, end_time=now)


def _begin(attributes: Mapping[str, Any], *, propagate: bool) -> ManualSpan:
    if propagate:
        return _tracer().operation_context(semconv.OPERATION, attributes)
    from .tracer.manual_span import ManualSpan

    return ManualSpan(semconv.OPERATION, attributes, tracer=None, scope=None)


def _tracer() -> Tracer:
    if tracer := get_active_tracer():
        return tracer
    raise NoActiveTracer


def _ordered(rewards: Mapping[str, float], primary_key: str | None) -> dict[str, float]:
    if primary_key is None or primary_key not in rewards:
        raise InvalidInput(
            f"of several rewards one is the primary: primary_key must be one of {', '.join(rewards)}",
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


def _flat(attributes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in attributes.items():
        if isinstance(value, Mapping):
            flat.update(_flat(cast("Mapping[str, Any]", value), f"{prefix}{key}."))
        elif _is_plain(value):
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, (list, tuple)):
            numbered = {str(n): item for n, item in enumerate(cast("Sequence[Any]", value))}
            flat.update(_flat(numbered, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = _told(value)
    return flat


def _is_plain(value: Any) -> bool:
    """Whether OpenTelemetry takes it as it is: a literal, or a list of literals of one type."""
    if isinstance(value, (list, tuple)):
        kinds: set[Any] = {type(item) for item in cast("Sequence[Any]", value)}
        return len(kinds) <= 1 and kinds <= set(_LITERALS)
    return isinstance(value, _LITERALS)


def _told(value: Any) -> Any:
    """A literal, or JSON text; of what JSON cannot hold, its `repr`."""
    if isinstance(value, _LITERALS):
        return value
    try:
        return dumps(value).decode()
    except Exception:  # objects of any kind pass through agents, and their recording must not break them
        return f"{value!r:.{_LONGEST_REPR}}"


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return {}  # the call itself will say what is wrong with them
    return {name: value for name, value in given.items() if name not in ("self", "cls")}
