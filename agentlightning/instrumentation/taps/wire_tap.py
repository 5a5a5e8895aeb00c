"""Wire tap: records the calls of every LLM SDK in the HTTP library that sends them.

There is one tap for each HTTP library, in a file of its own. Requests are sent unchanged. A whole response is read
after the SDK has received it, and a stream is copied while its bytes pass, so the SDK's own objects are untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

from ..llm_call import open_calls
from ..patches import Patch, Patches

SWITCH_VARIABLE = "AGL_WIRE_TAP"
"""Environment variable; `off` disables the wire tap in a process."""

_TAPS = {"httpx": "httpx", "httpx2": "httpx", "aiohttp": "aiohttp", "requests": "requests"}
"""Modules in this folder by the library that they patch."""


def is_enabled() -> bool:
    """Return True unless the wire tap is disabled in this process."""
    return os.environ.get(SWITCH_VARIABLE) != "off"


class WireTap(Patches):
    """The taps of all installed HTTP libraries."""

    def close_open_calls(self, predicate: Callable[[int], bool]) -> None:
        """End the record of every open call whose span id satisfies `predicate`, with what has arrived so far."""
        for call in list(open_calls):
            if predicate(call.span_id):
                call.finish(complete=False)


def _patches() -> Iterator[Patch]:
    for library, module in _TAPS.items():
        if is_enabled() and find_spec(library):
            yield from import_module(f".{module}", __package__).patches(import_module(library))


WIRE_TAP = WireTap(_patches)
