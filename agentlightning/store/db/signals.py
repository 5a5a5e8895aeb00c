"""In-process notifications: when a change has been committed, they wake the callers that are waiting for it.

The topic `QUEUE` means that a rollout can be claimed, and `("ended", rollout_id)` means that the rollout has ended.
Callers wait only for these topics; subscribers are notified of all topics. Waiters may run in any event loop in any
thread, and any thread may notify.
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
"""The kind of change, and the id of the affected rollout. The id is empty if the kind does not concern one rollout."""
Notification = tuple[Topic, int | None]
"""A topic and the number of waiters to wake. None means all waiters."""

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
        """Return the topics notified since the last call. If there are none, first wait for one.

        After `timeout` seconds without a notification, return an empty set. If `timeout` is None, wait indefinitely.
        """
        if not self._notified:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        self._event.clear()
        return self.take_notified()

    def take_notified(self) -> set[Topic]:
        """Remove and return the topics notified so far, without waiting."""
        topics: set[Topic] = set()
        while self._notified:
            topics.add(self._notified.popleft())
        return topics

    def notify(self, topic: Topic) -> None:
        """Add `topic` to the notified topics and wake the caller. Thread-safe."""
        self._notified.append(topic)
        with suppress(RuntimeError):  # raised if the caller's loop is closed
            self._loop.call_soon_threadsafe(self._event.set)


class Signals:
    """The waiters and subscribers of one store."""

    def __init__(self) -> None:
        # Protects `_waiters`: writer threads notify waiters while callers in other threads add and remove them.
        self._lock = threading.Lock()
        self._waiters: dict[Topic, dict[int, Waiter]] = {}
        self._subscribers: tuple[Callable[[Topic], None], ...] = ()
        self._closed = False

    @contextmanager
    def listen(self, *topics: Topic) -> Generator[Waiter]:
        """Register a waiter for `topics` while the block runs.

        If the waiter has not taken a `QUEUE` notification by then, the notification is passed to another waiter.
        """
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
        """Call the subscribers, and wake up to `count` waiters for `topic`, or all of them if `count` is None."""
        for subscriber in self._subscribers:
            subscriber(topic)
        with self._lock:
            waiting = self._waiters.get(topic)
            if not waiting:
                return
            chosen = list(islice(waiting.values(), count))
            for waiter in chosen:
                # Move the waiter to the end, so that the waiters are woken in turn.
                waiting[id(waiter)] = waiting.pop(id(waiter))
        for waiter in chosen:
            waiter.notify(topic)

    def subscribe(self, on_topic: Callable[[Topic], None]) -> None:
        """From now on, call `on_topic` with every topic that is notified. The call is made in the notifying thread."""
        self._subscribers = (*self._subscribers, on_topic)

    def unsubscribe(self, on_topic: Callable[[Topic], None]) -> None:
        """Stop calling `on_topic`."""
        self._subscribers = tuple(each for each in self._subscribers if each != on_topic)

    def topics(self) -> list[Topic]:
        """Return the topics that have waiters."""
        with self._lock:
            return list(self._waiters)

    def release(self) -> None:
        """End the waits of all registered waiters, and call the subscribers with `CLOSED`.

        Waiters registered later can wait as usual.
        """
        with self._lock:
            waiters = {id(waiter): waiter for line in self._waiters.values() for waiter in line.values()}
        for subscriber in self._subscribers:
            subscriber(CLOSED)
        for waiter in waiters.values():
            waiter.released = True
            for topic in waiter.topics[:1]:
                waiter.notify(topic)

    def close(self) -> None:
        """End the waits of all registered waiters. Waiters registered later are released from the start."""
        self._closed = True
        self.release()

    def _remove(self, waiter: Waiter) -> None:
        with self._lock:
            for topic in waiter.topics:
                line = self._waiters.get(topic, {})
                line.pop(id(waiter), None)
                if not line:
                    self._waiters.pop(topic, None)
