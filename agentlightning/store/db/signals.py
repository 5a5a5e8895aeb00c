"""Who waits for what: callers are woken when a commit has changed what they wait for.

A topic is a string: `QUEUE` for "something can be claimed", `ended(rollout_id)` for "it has ended", `news(…)` for
those who look on. Waiters may live in any event loop of any thread, wakers in any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Literal

QUEUE = "queue"
CLOSED = "closed"
"""What taps hear when every waiter is sent home."""

Kind = Literal["rollout", "spans", "workers", "resources"]


def ended(rollout_id: str) -> str:
    """The topic of a rollout's end."""
    return f"ended:{rollout_id}"


def news(kind: Kind, id: str = "") -> str:
    """The topic of a change: of this rollout, of its spans, of the workers or the resources."""
    return f"{kind}:{id}"


def kind_and_id(topic: str) -> tuple[str, str]:
    """What a topic of `news` or `ended` is about."""
    kind, _, about = topic.partition(":")
    return kind, about


class Waiter:
    """One caller that waits for some topics."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self.released = False
        """Go home with what there is: the store is closing, or whoever served this caller is."""
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._woken: deque[str] = deque()

    async def wait(self, timeout: float | None) -> set[str]:
        """The topics that woke this caller since the last call; none when `timeout` seconds passed first."""
        if not self._woken:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        self._event.clear()
        return self.taken()

    def taken(self) -> set[str]:
        """What woke this caller, handed over."""
        topics: set[str] = set()
        while self._woken:
            topics.add(self._woken.popleft())
        return topics

    def wake(self, topic: str) -> None:
        """Called from any thread."""
        self._woken.append(topic)
        with suppress(RuntimeError):  # its loop has closed: nobody waits there any more
            self._loop.call_soon_threadsafe(self._event.set)


class Signals:
    """The waiters of one store."""

    def __init__(self) -> None:
        # Protects the dictionary from wakers in writer threads while callers come and go in their loops.
        self._lock = threading.Lock()
        self._waiters: dict[str, dict[int, Waiter]] = {}
        self._taps: tuple[Callable[[str], None], ...] = ()
        self._closed = False

    @contextmanager
    def listen(self, *topics: str) -> Generator[Waiter]:
        """Be woken about `topics` while inside. A claim's wake that was not used goes to the next in line."""
        waiter = Waiter(topics)
        waiter.released = self._closed
        self._join(waiter)
        try:
            yield waiter
        finally:
            self._leave(waiter)
            if QUEUE in waiter.taken():
                self.wake(QUEUE)

    def wake(self, topic: str, count: int | None = 1) -> None:
        """Wake those who wait longest for `topic`: `count` of them, or with None all."""
        for tap in self._taps:
            tap(topic)
        with self._lock:
            waiting = self._waiters.get(topic)
            if not waiting:
                return
            chosen = list(islice(waiting.values(), count))
            for waiter in chosen:
                # To the end of the line: the next wake is for somebody else.
                waiting[id(waiter)] = waiting.pop(id(waiter))
        for waiter in chosen:
            waiter.wake(topic)

    def tap(self, hear: Callable[[str], None]) -> None:
        """From now on `hear` is called with every topic, by the thread that wakes."""
        self._taps = (*self._taps, hear)

    def untap(self, hear: Callable[[str], None]) -> None:
        """It is called no more."""
        self._taps = tuple(tap for tap in self._taps if tap != hear)

    def topics(self) -> list[str]:
        """What is waited for."""
        with self._lock:
            return list(self._waiters)

    def release(self) -> None:
        """Send every waiter home; those who come later may wait again."""
        with self._lock:
            waiters = {id(waiter): waiter for line in self._waiters.values() for waiter in line.values()}
        for tap in self._taps:
            tap(CLOSED)
        for waiter in waiters.values():
            waiter.released = True
            for topic in waiter.topics[:1]:
                waiter.wake(topic)

    def close(self) -> None:
        """Send every waiter home, for good."""
        self._closed = True
        self.release()

    def _join(self, waiter: Waiter) -> None:
        with self._lock:
            for topic in waiter.topics:
                self._waiters.setdefault(topic, {})[id(waiter)] = waiter

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            for topic in waiter.topics:
                line = self._waiters.get(topic, {})
                line.pop(id(waiter), None)
                if not line:
                    self._waiters.pop(topic, None)
