"""The wire tap: every LLM SDK's calls, seen where they leave the process.

One hook for each HTTP library of the field, in a file of its own. The request goes out as it is; a whole answer is read
from the response after the SDK has it, a streamed one is copied as its bytes pass, so the SDK's own objects are
untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

from ..llm_call import open_calls
from ..patches import Patch, Patches

SWITCH = "AGL_WIRE_TAP"
"""The environment variable that, set to `off`, keeps the tap out of a process."""

_TAPS = {"httpx": "httpx_tap", "httpx2": "httpx_tap", "aiohttp": "aiohttp_tap", "requests": "requests_tap"}
"""Which file taps which library."""


def is_on() -> bool:
    """Whether this process's calls are to be seen on the wire."""
    return os.environ.get(SWITCH) != "off"


class WireTap(Patches):
    """The hooks, and the calls whose answers are still on their way."""

    def close_open_calls(self, mine: Callable[[int], bool]) -> None:
        """End the record of every open call whose span id is `mine`, with what has been seen of its answer."""
        for call in list(open_calls):
            if mine(call.span_id):
                call.finished(complete=False)


def _patches() -> Iterator[Patch]:
    for library, tap in _TAPS.items():
        if is_on() and find_spec(library):
            yield from import_module(f".{tap}", __package__).patches(import_module(library))


WIRE_TAP = WireTap(_patches)
