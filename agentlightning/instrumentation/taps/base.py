"""Parts that the taps of all HTTP libraries share."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from typing import Any

from ..llm_call import OpenCall, abandons_on_error

logger = logging.getLogger("agentlightning.instrumentation")

Start = Callable[..., OpenCall | None]
"""Starts the record of a request from the arguments of the tapped function; None if it is not recorded."""
Record = Callable[[OpenCall, Any], None]
"""Records the response of a call."""


def tap(start: Start, record: Record) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a wrapper of a function that sends a request and returns the response."""
    start, record = _returns_none_on_error(start), abandons_on_error(record)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def send(*args: Any, **kwargs: Any) -> Any:
            call = start(*args, **kwargs)
            if call is None:
                return original(*args, **kwargs)
            with call:
                response = original(*args, **kwargs)
            record(call, response)
            return response

        return send

    return wrap


def tap_async(start: Start, record: Record) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]:
    """Return a wrapper of an async function that sends a request and returns the response."""
    start, record = _returns_none_on_error(start), abandons_on_error(record)

    def wrap(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(original)
        async def send(*args: Any, **kwargs: Any) -> Any:
            call = start(*args, **kwargs)
            if call is None:
                return await original(*args, **kwargs)
            with call:
                response = await original(*args, **kwargs)
            record(call, response)
            return response

        return send

    return wrap


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


def _returns_none_on_error(start: Start) -> Start:
    def safe(*args: Any, **kwargs: Any) -> OpenCall | None:
        try:
            return start(*args, **kwargs)
        except Exception:
            logger.debug("A request could not be inspected", exc_info=True)
            return None

    return safe
