"""The AgentOps SDK as pure instrumentation: only its wrappers are used, on our tracer provider.

AgentOps' own `init` would set a provider, replace `print` and `__import__`, write a log file, start threads and contact
its service. Here only its instrumentors are applied, to the libraries that are imported, with three precautions: its
wrappers around the LLM SDKs are isolated (`wrapper_isolation.py`), it can neither flush nor shut down the provider, and
everything that it has patched is restored. Written for the version that the extra `[agentops]` pins.
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

from .patches import Instrumentation, Patch
from .wrapper_isolation import isolate

logger = logging.getLogger("agentlightning.instrumentation")

_LLM_SDKS = ("openai.", "anthropic.")
"""SDKs whose calls the wire tap records as well, so that AgentOps can be kept from changing them."""


class AgentOps(Instrumentation):
    """AgentOps' instrumentors, applied to the libraries that have been imported so far."""

    def __init__(self) -> None:
        super().__init__()
        self._sdk: Any = None
        self._core: Any = None
        self._patched: list[_PatchedAttribute] = []
        self._tried: set[str] = set()

    @property
    def is_installed(self) -> bool:
        """True if the extra `[agentops]` is installed."""
        return find_spec("agentops") is not None

    def refresh(self) -> None:
        """Instrument the libraries that have been imported since the last call."""
        with self._lock:
            if self._users:
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
        logging.getLogger("opentelemetry.attributes").addFilter(_is_not_about_enums)
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
        logging.getLogger("opentelemetry.attributes").removeFilter(_is_not_about_enums)

    def _instrument(self) -> None:
        if (sdk := self._sdk) is None:
            return
        # Frameworks first: AgentOps instruments one framework, or else the LLM SDKs.
        libraries = [*sdk.AGENTIC_LIBRARIES, *sdk.PROVIDERS]
        imported = [name for name in libraries if name not in self._tried and name in sys.modules]
        if not imported:
            return
        with _recorded_wrapt(self._patched):
            for name in imported:
                self._tried.add(name)
                with suppress(Exception):
                    if sdk._is_installed_package(sys.modules[name], name):
                        sdk._perform_instrumentation(name)


class _Provider:
    """The provider that AgentOps uses: the process's own, protected from a flush after every span."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return trace.get_tracer_provider().get_tracer(*args, **kwargs)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def shutdown(self) -> None:
        pass


class _PatchedAttribute:
    """An attribute that AgentOps has wrapped, and its original value."""

    def __init__(self, owner: Any, name: str, original: Any) -> None:
        self._owner, self._name, self._original = owner, name, original
        self._was_inherited = isinstance(owner, type) and name not in vars(owner)

    def undo(self) -> None:
        if self._was_inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._original)


def _is_not_about_enums(record: logging.LogRecord) -> bool:
    # AgentOps uses enums as attributes. They are stored correctly, but cause a warning with every tool call.
    return "Invalid type `<enum" not in record.getMessage()


_wrapt_lock = threading.Lock()


@contextmanager
def _recorded_wrapt(patched: list[_PatchedAttribute]) -> Generator[None]:
    """Record everything that wrapt wraps during the block, and isolate wrappers around LLM SDKs."""
    wrapt: Any = import_module("wrapt.patches")

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrap_object(module: Any, name: str, factory: Any, args: Any = (), kwargs: Any = {}) -> Any:  # noqa: B006
            patched.append(_PatchedAttribute(*wrapt.resolve_path(module, name)))
            path = module if isinstance(module, str) else module.__name__
            if path.startswith(_LLM_SDKS):
                args = tuple(isolate(wrapper) for wrapper in args)
            return original(module, name, factory, args, kwargs)

        return wrap_object

    patch = Patch(wrapt, "wrap_object", wrap)
    # The function is global: two tracers must not take each other's replacement for the original.
    with _wrapt_lock:
        patch.apply()
        try:
            yield
        finally:
            patch.undo()


AGENTOPS = AgentOps()
