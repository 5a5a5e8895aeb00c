"""Instrumentation by the AgentOps SDK, whose wrappers around libraries create spans with the process's tracer provider.

AgentOps' own `init` would set a tracer provider, replace `print` and `__import__`, write a log file, start threads and
contact AgentOps' service. This module does not call `init`. It only applies AgentOps' instrumentors to the imported
libraries, with three precautions: the wrappers around LLM SDKs are isolated (see `_isolated`), AgentOps can neither
flush nor shut down the tracer provider, and everything that AgentOps has patched is restored afterwards. The code is
written for the AgentOps version that the extra `[agentops]` pins.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from opentelemetry import context, trace

from .context import CALL_SPAN, recording_context
from .patches import Instrumentation, Patch

logger = logging.getLogger("agentlightning.instrumentation")

_LLM_SDKS = ("openai.", "anthropic.")
"""Module prefixes of LLM SDKs whose calls the wire tap also records. AgentOps' wrappers around them are isolated."""

_Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""A wrapper function. Its arguments are the wrapped function, the instance to which that function is bound, and the
positional and keyword arguments of the call."""

_MISSING = object()
_PLACEHOLDERS = frozenset({"Omit", "NotGiven"})


class AgentOps(Instrumentation):
    """AgentOps' instrumentors, applied to the libraries that have been imported so far."""

    _sdk: Any = None
    _core: Any
    _restorations: list[Callable[[], None]]
    _tried: set[str]

    @property
    def is_installed(self) -> bool:
        """True if the package `agentops` (extra `[agentops]`) is installed."""
        return find_spec("agentops") is not None

    def refresh(self) -> None:
        """Also instrument the libraries imported after `apply` or the last `refresh`, if a tracer uses AgentOps."""
        with self._lock:
            if self._users:
                self._instrument()

    def _apply(self) -> None:
        try:
            core: Any = import_module("agentops.sdk.core").tracer
            self._sdk = import_module("agentops.instrumentation")
        except Exception as error:
            logger.warning(
                "AgentOps is installed but cannot be used (%r); install the supported version with "
                "pip install 'agentlightning[agentops]'",
                error,
            )
            return
        core.provider, core._config, core._initialized = _Provider(), {}, True
        atexit.unregister(core.shutdown)
        logging.getLogger("opentelemetry.attributes").addFilter(_is_not_about_enums)
        self._core, self._restorations, self._tried = core, [], set()
        self._instrument()

    def _undo(self) -> None:
        sdk, self._sdk = self._sdk, None
        if sdk is None:
            return
        while self._restorations:
            self._restorations.pop()()
        for instrumentor in sdk._active_instrumentors:
            with suppress(Exception):
                instrumentor.uninstrument()
        sdk._active_instrumentors, sdk._has_agentic_library = [], False
        self._core.provider, self._core._initialized = None, False
        logging.getLogger("opentelemetry.attributes").removeFilter(_is_not_about_enums)

    def _instrument(self) -> None:
        if (sdk := self._sdk) is None:
            return
        # Frameworks come first: once AgentOps has instrumented a framework, it does not instrument any LLM SDK.
        libraries = [*sdk.AGENTIC_LIBRARIES, *sdk.PROVIDERS]
        imported = [name for name in libraries if name not in self._tried and name in sys.modules]
        if not imported:
            return
        with _recorded_wrapt(self._restorations):
            for name in imported:
                self._tried.add(name)
                with suppress(Exception):
                    if sdk._is_installed_package(sys.modules[name], name):
                        sdk._perform_instrumentation(name)


class _Provider:
    """The tracer provider for AgentOps. Gets tracers from the process's provider and ignores flushes and shutdowns."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return trace.get_tracer_provider().get_tracer(*args, **kwargs)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def shutdown(self) -> None:
        pass


def _restoration(owner: Any, name: str, original: Any) -> Callable[[], None]:
    """Return a function that restores an attribute that AgentOps is about to wrap."""
    if isinstance(owner, type) and name not in vars(owner):  # inherited, so the original is in a base class
        return partial(delattr, owner, name)
    return partial(setattr, owner, name, original)


def _is_not_about_enums(record: logging.LogRecord) -> bool:
    # AgentOps sets span attributes to enum members. They are stored correctly, but cause a warning for every tool call.
    return "Invalid type `<enum" not in record.getMessage()


_wrapt_lock = threading.Lock()


@contextmanager
def _recorded_wrapt(restorations: list[Callable[[], None]]) -> Generator[None]:
    """While the block runs, record how to undo everything that wrapt wraps, and isolate wrappers around LLM SDKs."""
    wrapt: Any = import_module("wrapt.patches")

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrap_object(module: Any, name: str, factory: Any, args: Any = (), kwargs: Any = {}) -> Any:  # noqa: B006
            restorations.append(_restoration(*wrapt.resolve_path(module, name)))
            path = module if isinstance(module, str) else module.__name__
            if path.startswith(_LLM_SDKS):
                args = tuple(_isolated(wrapper) for wrapper in args)
            return original(module, name, factory, args, kwargs)

        return wrap_object

    patch = Patch(wrapt, "wrap_object", wrap)
    # All threads share `wrap_object`. The lock keeps a thread from mistaking another thread's patch for the original.
    with _wrapt_lock:
        patch.apply()
        try:
            yield
        finally:
            patch.undo()


def _isolated(wrapper: _Wrapper) -> _Wrapper:
    """Return a version of `wrapper` that cannot affect calls to the wrapped function.

    The isolated wrapper can observe a call and create a span for it. It cannot change the call's arguments, result or
    error, and its own exceptions are only logged. It is skipped for calls that are not recorded and for calls that it
    would break (see `_is_plain`).
    """

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
    """Return True if the call is safe for an isolated wrapper.

    It would break streamed calls, calls with extra headers (used to request a raw response), and calls with the SDK's
    placeholders for omitted arguments.
    """
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
    """Passed to a wrapper in place of the wrapped function. Makes the real call and keeps its result or error."""

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
        """Return the result of the real call or raise its error. If the wrapper has not made the call, make it now."""
        if wrapper_error is not None and wrapper_error is not self._error:
            logger.debug("Third-party instrumentation failed", exc_info=wrapper_error)
        if self._error is not None:
            raise self._error
        return self._make() if self._result is _MISSING else self._result


AGENTOPS = AgentOps()
