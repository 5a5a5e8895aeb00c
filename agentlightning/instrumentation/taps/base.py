"""Parts that the taps of all HTTP libraries share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec

from ..dialects import may_be_call
from ..llm_call import OpenCall

logger = logging.getLogger("agentlightning.instrumentation")

P = ParamSpec("P")


def returns_none_on_error(start: Callable[P, OpenCall | None]) -> Callable[P, OpenCall | None]:
    """Decorate a function that starts a record so that an error of ours means that the call is not recorded."""

    @wraps(start)
    def safe(*args: P.args, **kwargs: P.kwargs) -> OpenCall | None:
        try:
            return start(*args, **kwargs)
        except Exception:
            logger.debug("A request could not be inspected", exc_info=True)
            return None

    return safe


def is_candidate(method: str, path: str) -> bool:
    """Return True if a request may be a call to a model; a cheap test, made for every request."""
    return method.upper() == "POST" and may_be_call(path)


class RecordedStream:
    """Wrapper around a library's response stream that records the bytes that the user reads."""

    def __init__(self, stream: Any, call: OpenCall) -> None:
        self._stream = stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self._call.record_chunks(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._call.finish(complete=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)

    def __del__(self) -> None:
        self._call.finish(complete=False)
