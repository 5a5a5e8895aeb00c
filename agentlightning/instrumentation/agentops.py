"""The AgentOps SDK as pure instrumentation: its wrappers, on our provider, and nothing else of it.

Its own `init` would set a provider, replace `print` and `__import__`, write a log file, start threads and talk to its
service. Here only its instrumentors are applied, to what has been imported, with three precautions: its wrappers
around the LLM SDKs are `guarded`, the provider it sees cannot be flushed or shut down by it, and all it has patched is
put back. Written for the version that the extra `[agentops]` pins.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from opentelemetry import trace

from .guarded_call import guarded
from .patches import Instrumentation, Patch

logger = logging.getLogger("agentlightning.instrumentation")

_LLM_SDKS = ("openai.", "anthropic.")
"""Whose calls the wire tap sees as well, so that AgentOps may be kept from touching them."""


class AgentOps(Instrumentation):
    """AgentOps' instrumentors, applied to the libraries that have been imported so far."""

    def __init__(self) -> None:
        super().__init__()
        self._sdk: Any = None
        self._core: Any = None
        self._patched: list[_Patched] = []
        self._tried: set[str] = set()

    @property
    def is_installed(self) -> bool:
        """Whether the extra `[agentops]` is there."""
        return find_spec("agentops") is not None

    def look_again(self) -> None:
        """Instrument what has been imported since it was last looked."""
        with self._lock:
            if self._wanted:
                self._instrument()

    def _apply(self) -> None:
        try:
            core: Any = import_module("agentops.sdk.core").tracer
            self._sdk = import_module("agentops.instrumentation")
        except Exception as error:
            logger.warning("AgentOps is installed, but cannot be used: %r", error)
            return
        core.provider, core._config, core._initialized = _Provider(), {}, True
        atexit.unregister(core.shutdown)
        logging.getLogger("opentelemetry.attributes").addFilter(_not_about_enums)
        self._core, self._tried = core, set()
        self._instrument()

    def _undo(self) -> None:
        sdk, self._sdk = self._sdk, None
        if sdk is None:
            return
        while self._patched:
            self._patched.pop().undo()
        for instrumentor in sdk._active_instrumentors:
            with suppress(Exception):
                instrumentor.uninstrument()
        sdk._active_instrumentors, sdk._has_agentic_library = [], False
        self._core.provider, self._core._initialized = None, False
        logging.getLogger("opentelemetry.attributes").removeFilter(_not_about_enums)

    def _instrument(self) -> None:
        if (sdk := self._sdk) is None:
            return
        # Frameworks first: AgentOps takes one framework, or else the LLM SDKs.
        wanted = [name for name in (*sdk.AGENTIC_LIBRARIES, *sdk.PROVIDERS) if name not in self._tried]
        loaded = [name for name in wanted if name in sys.modules]
        if not loaded:
            return
        with _watched_wrapt(self._patched):
            for name in loaded:
                self._tried.add(name)
                with suppress(Exception):
                    if sdk._is_installed_package(sys.modules[name], name):
                        sdk._perform_instrumentation(name)


class _Provider:
    """What AgentOps takes for its tracer provider: the process's own, which is not its to flush after every span."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return trace.get_tracer_provider().get_tracer(*args, **kwargs)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def shutdown(self) -> None:
        pass


class _Patched:
    """An attribute that was wrapped, and what it was before."""

    def __init__(self, owner: Any, name: str, original: Any) -> None:
        self._owner, self._name, self._original = owner, name, original
        self._was_inherited = isinstance(owner, type) and name not in vars(owner)

    def undo(self) -> None:
        if self._was_inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._original)


def _not_about_enums(record: logging.LogRecord) -> bool:
    # AgentOps gives enums for attributes, which are stored well, but complained of with every tool call.
    return "Invalid type `<enum" not in record.getMessage()


_wrapt_lock = threading.Lock()


@contextmanager
def _watched_wrapt(patched: list[_Patched]) -> Generator[None]:
    """While it lasts, everything that wrapt wraps is noted, and wrappers around LLM SDKs are guarded."""
    wrapt: Any = import_module("wrapt.patches")

    def watch(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrap_object(module: Any, name: str, factory: Any, args: Any = (), kwargs: Any = {}) -> Any:  # noqa: B006
            owner, attribute, before = wrapt.resolve_path(module, name)
            patched.append(_Patched(owner, attribute, before))
            path = module if isinstance(module, str) else module.__name__
            if path.startswith(_LLM_SDKS):
                args = tuple(guarded(wrapper) for wrapper in args)
            return original(module, name, factory, args, kwargs)

        return wrap_object

    patch = Patch(wrapt, "wrap_object", watch)
    # The function is the whole process's: two tracers must not take each other's replacement for the original.
    with _wrapt_lock:
        patch.apply()
        try:
            yield
        finally:
            patch.undo()


AGENTOPS = AgentOps()
