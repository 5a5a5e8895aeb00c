"""Propagation of the context to threads and executors, so that their work belongs to the rollout that started it.

Python starts a new thread in an empty context, so the work of a `Thread` or an executor would belong to no rollout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import wraps
from typing import Any

from opentelemetry import context

from .context import SCOPE
from .patches import Patch, Patches


def _patches() -> Iterator[Patch]:
    yield Patch(ThreadPoolExecutor, "submit", _submit_with_context)
    yield Patch(threading.Thread, "start", _start_with_context)


CONTEXT_IN_THREADS = Patches(_patches)


def _submit_with_context(original: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @wraps(original)
    def submit(pool: ThreadPoolExecutor, /, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        # The pool may start a thread for this work that outlives the rollout: it starts in an empty context.
        return Context().run(original, pool, copy_context().run, fn, *args, **kwargs)

    return submit


def _start_with_context(original: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @wraps(original)
    def start(thread: threading.Thread) -> None:
        if context.get_value(SCOPE) is not None:
            _run_in_current_context(thread)
        original(thread)

    return start


def _run_in_current_context(thread: threading.Thread) -> None:
    run, current = thread.run, copy_context()

    def run_in_context() -> None:
        del thread.run  # an object that holds its own bound method stays alive until the next garbage collection
        current.run(run)

    thread.run = run_in_context
