"""Hosting somebody else's wrapper around a function without letting it change what the function's caller sees.

The wrapper may look at a call and make a span of it. It cannot change the arguments, the result or the error, and its
own failures stay inside.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry import context, trace

from .context import CALL_SPAN, listening

logger = logging.getLogger("agentlightning.instrumentation")

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As wrapt takes it: the wrapped function, the instance, positional and keyword arguments."""

_NOTHING = object()
_PLACEHOLDERS = frozenset({"Omit", "NotGiven"})


def guarded(wrapper: Wrapper) -> Wrapper:
    """`wrapper` with its hands tied; not called at all for calls it is known to be bad for, or that nobody records."""

    def guard(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if listening() is None or not _is_plain(kwargs):
            return wrapped(*args, **kwargs)
        call = _Call(wrapped, args, kwargs)
        try:
            returned = wrapper(call, instance, args, dict(kwargs))
        except Exception as error:
            return call.settle(error)
        return _settle_later(returned, call) if inspect.isawaitable(returned) else call.settle()

    return guard


def _is_plain(kwargs: Mapping[str, Any]) -> bool:
    """Whether the call is neither streamed, nor for a raw response, nor full of an SDK's placeholders."""
    if kwargs.get("stream") or kwargs.get("extra_headers"):
        return False
    return not any(type(value).__name__ in _PLACEHOLDERS for value in kwargs.values())


async def _settle_later(returned: Awaitable[Any], call: _Call) -> Any:
    try:
        await returned
    except Exception as error:
        return await _awaited(call.settle(error))
    return await _awaited(call.settle())


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class _Call:
    """What the wrapper is given in place of the function: makes the real call, once, and remembers how it went."""

    def __init__(self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._make = lambda: wrapped(*args, **kwargs)
        self._result: Any = _NOTHING
        self._error: BaseException | None = None

    def __call__(self, *_: Any, **__: Any) -> Any:
        token = context.attach(context.set_value(CALL_SPAN, trace.get_current_span()))
        try:
            made = self._make()
        except BaseException as error:
            self._error = error
            raise
        finally:
            context.detach(token)
        if inspect.isawaitable(made):
            return self._await(made)
        self._result = made
        return made

    async def _await(self, made: Awaitable[Any]) -> Any:
        token = context.attach(context.set_value(CALL_SPAN, trace.get_current_span()))
        try:
            self._result = await made
        except BaseException as error:
            self._error = error
            raise
        finally:
            context.detach(token)
        return self._result

    def settle(self, wrappers_error: Exception | None = None) -> Any:
        """The function's own result or error; where the wrapper failed before calling it, the call is made now."""
        if wrappers_error is not None and wrappers_error is not self._error:
            logger.debug("Hosted instrumentation failed", exc_info=wrappers_error)
        if self._error is not None:
            raise self._error
        return self._make() if self._result is _NOTHING else self._result
