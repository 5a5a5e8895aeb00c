"""Isolation of foreign wrappers around a function, so that its caller sees no difference.

The wrapper may observe a call and create a span for it. It cannot change the arguments, the result or the error, and
its own failures have no effect.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, trace

from .context import CALL_SPAN, recording_context

logger = logging.getLogger("agentlightning.instrumentation")

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As wrapt calls it: wrapped function, instance, positional and keyword arguments."""

_MISSING = object()
_PLACEHOLDERS = frozenset({"Omit", "NotGiven"})


def isolate(wrapper: Wrapper) -> Wrapper:
    """Return `wrapper` in isolation. It is not called if the call is not recorded or of a kind that it breaks."""

    def isolated(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if recording_context() is None or not _is_plain(kwargs):
            return wrapped(*args, **kwargs)
        call = _Call(wrapped, args, kwargs)
        try:
            returned = wrapper(call, instance, args, dict(kwargs))
        except Exception as error:
            return call.outcome(error)
        return _await_outcome(returned, call) if inspect.isawaitable(returned) else call.outcome()

    return isolated


def _is_plain(kwargs: Mapping[str, Any]) -> bool:
    """Return True if the call is neither streamed nor for a raw response and has none of the SDK's placeholders."""
    if kwargs.get("stream") or kwargs.get("extra_headers"):
        return False
    return not any(type(value).__name__ in _PLACEHOLDERS for value in kwargs.values())


async def _await_outcome(returned: Awaitable[Any], call: _Call) -> Any:
    wrapper_error: Exception | None = None
    try:
        await returned
    except Exception as error:
        wrapper_error = error
    outcome = call.outcome(wrapper_error)
    return await outcome if inspect.isawaitable(outcome) else outcome


class _Call:
    """The function as the wrapper sees it: makes the real call once and keeps its outcome."""

    def __init__(self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._make = lambda: wrapped(*args, **kwargs)
        self._result: Any = _MISSING
        self._error: BaseException | None = None

    def __call__(self, *_: Any, **__: Any) -> Any:
        with self._recorded():
            result = self._make()
        if inspect.isawaitable(result):
            return self._await(result)
        self._result = result
        return result

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        with self._recorded():
            self._result = await awaitable
        return self._result

    @contextmanager
    def _recorded(self) -> Generator[None]:
        token = context.attach(context.set_value(CALL_SPAN, trace.get_current_span()))
        try:
            yield
        except BaseException as error:
            self._error = error
            raise
        finally:
            context.detach(token)

    def outcome(self, wrapper_error: Exception | None = None) -> Any:
        """Return the function's own result or raise its error; call it now if the wrapper failed before doing so."""
        if wrapper_error is not None and wrapper_error is not self._error:
            logger.debug("Foreign instrumentation failed", exc_info=wrapper_error)
        if self._error is not None:
            raise self._error
        return self._make() if self._result is _MISSING else self._result
