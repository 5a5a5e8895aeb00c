"""In-process notifications, which wake callers waiting for a change once the change has been committed.

`QUEUE` is the topic for rollouts that can be claimed, and `("ended", rollout_id)` is the topic for the end of
a rollout. Other topics are only for subscribers. Waiters may run in any event loop in any thread, and any thread may
notify.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Literal

Kind = Literal["queue", "closed", "ended", "rollout", "spans", "workers", "resources"]
Topic = tuple[Kind, str]
"""A kind of change and the id of the affected rollout, or an empty string if no single rollout is affected."""
Notification = tuple[Topic, int | None]
"""A topic and the number of waiters to wake. None means all."""

QUEUE: Topic = ("queue", "")
CLOSED: Topic = ("closed", "")
"""The topic sent to subscribers when all waiters are released."""


class Waiter:
    """A caller waiting for one or more topics."""

    def __init__(self, topics: tuple[Topic, ...]) -> None:
        self.topics = topics
        self.released = False
        """True if the caller must stop waiting because the store or its server is closing."""
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._notified: deque[Topic] = deque()

    async def wait(self, timeout: float | None) -> set[Topic]:
        """Return the topics notified since the last call. If there are none, wait up to `timeout` seconds for one."""
        if not self._notified:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        self._event.clear()
        return self.take_notified()

    def take_notified(self) -> set[Topic]:
        """Return and clear the topics notified so far."""
        topics: set[Topic] = set()
        while self._notified:
            topics.add(self._notified.popleft())
        return topics

    def notify(self, topic: Topic) -> None:
        """Wake the caller. Thread-safe."""
        self._notified.append(topic)
        with suppress(RuntimeError):  # the caller's loop is closed
            self._loop.call_soon_threadsafe(self._event.set)


class Signals:
    """The waiters and subscribers for one store."""

    def __init__(self) -> None:
        # Protects `_waiters`: writer threads notify waiters while callers in other event loops add and remove them.
        self._lock = threading.Lock()
        self._waiters: dict[Topic, dict[int, Waiter]] = {}
        self._subscribers: tuple[Callable[[Topic], None], ...] = ()
        self._closed = False

    @contextmanager
    def listen(self, *topics: Topic) -> Generator[Waiter]:
        """Register a waiter for `topics`. On exit, its unused `QUEUE` notification is passed to another waiter."""
        waiter = Waiter(topics)
        waiter.released = self._closed
        with self._lock:
            for topic in topics:
                self._waiters.setdefault(topic, {})[id(waiter)] = waiter
        try:
            yield waiter
        finally:
            self._remove(waiter)
            if QUEUE in waiter.take_notified():
                self.notify(QUEUE)

    def notify(self, topic: Topic, count: int | None = 1) -> None:
        """Call the subscribers, and wake `count` waiters for `topic` in turn, or all of them if `count` is None."""
        for subscriber in self._subscribers:
            subscriber(topic)
        with self._lock:
            waiting = self._waiters.get(topic)
            if not waiting:
                return
            chosen = list(islice(waiting.values(), count))
            for waiter in chosen:
                # Move the waiter to the end, so that the next notification wakes another waiter.
                waiting[id(waiter)] = waiting.pop(id(waiter))
        for waiter in chosen:
            waiter.notify(topic)

    def subscribe(self, on_topic: Callable[[Topic], None]) -> None:
        """Call `on_topic` for every notified topic from now on, in the notifying thread."""
        self._subscribers = (*self._subscribers, on_topic)

    def unsubscribe(self, on_topic: Callable[[Topic], None]) -> None:
        """Stop calling `on_topic`."""
        self._subscribers = tuple(each for each in self._subscribers if each != on_topic)

    def topics(self) -> list[Topic]:
        """Return the topics that have waiters."""
        with self._lock:
            return list(self._waiters)

    def release(self) -> None:
        """End the waits of all registered waiters. Waiters registered later can wait as usual."""
        with self._lock:
            waiters = {id(waiter): waiter for line in self._waiters.values() for waiter in line.values()}
        for subscriber in self._subscribers:
            subscriber(CLOSED)
        for waiter in waiters.values():
            waiter.released = True
            for topic in waiter.topics[:1]:
                waiter.notify(topic)

    def close(self) -> None:
        """End all waits, now and in the future."""
        self._closed = True
        self.release()

    def _remove(self, waiter: Waiter) -> None:
        with self._lock:
            for topic in waiter.topics:
                line = self._waiters.get(topic, {})
                line.pop(id(waiter), None)
                if not line:
                    self._waiters.pop(topic, None)
