"""`GET /events`: changes to the store as server-sent events.

Each commit announces which rollouts, spans, workers and resources it changed. The feed combines the announcements made
within a quarter of a second into one event and sends the same bytes to every subscriber, so that 20 open dashboards
cost little more than one. A client that reconnects with Last-Event-ID receives the events that it missed. If those
events are no longer available, or if the client reads too slowly, the client is told to reload everything.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...errors import StoreBusy, StoreUnavailable
from ..db.signals import CLOSED, Topic
from ..sql import SqlStore

COALESCE_SECONDS = 0.25
KEEP_ALIVE_INTERVAL = 15.0
MAX_IDS_PER_EVENT = 100
"""Maximum number of ids per field of an event. If more have changed, the event tells clients to reload everything."""
MAX_SUBSCRIBERS = 200
MAX_PENDING_EVENTS = 16
"""Maximum number of events buffered for a slow subscriber: four seconds of changes, at most 400 kB."""
MAX_REPLAYED_EVENTS = 240
"""Number of events kept for clients that reconnect: one minute of changes."""

Subscriber = asyncio.Queue[bytes | None]
"""The events that one client has not yet read. None ends the client's stream."""

_OMITTED_FIELDS = {"input", "config", "metadata"}
"""Rollout fields left out of events, because they may be large and only `update_rollout` changes them."""


_FIELDS = {"rollout": "rollouts", "ended": "rollouts", "spans": "spans", "workers": "workers", "resources": "resources"}
"""The event field that contains the changes for each topic. Other topics are not published."""


class ChangeFeed:
    """The stream of changes and its subscribers. Use it in one event loop; commits may happen in any thread."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._epoch = os.urandom(4).hex()
        self._number = 0
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=MAX_REPLAYED_EVENTS)
        self._subscribers: set[Subscriber] = set()
        self._publisher: asyncio.Task[None] | None = None
        self._has_changes: asyncio.Event
        # Protects `_changes` from concurrent access by threads that commit.
        self._lock = threading.Lock()
        self._changes: defaultdict[str, set[str]] = defaultdict(set)
        """Changed ids for the next event, by event field."""

    async def get_events(self, request: Request) -> Response:
        """Return a stream of the events that follow the last one that the client received."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise StoreBusy(f"the store already has {MAX_SUBSCRIBERS} event subscribers; try again later")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = self.stream(request.headers.get("last-event-id"))
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def stream(self, last_id: str | None) -> AsyncGenerator[bytes]:
        """Yield the events after `last_id`, and comments that keep the connection alive."""
        subscriber = Subscriber(MAX_PENDING_EVENTS)
        self._subscribe(subscriber)
        try:
            for event in self._missed_events(last_id):
                yield event
            while (event := await _next_event(subscriber)) is not None:
                yield event
        finally:
            self._unsubscribe(subscriber)

    def _missed_events(self, last_id: str | None) -> list[bytes]:
        epoch, _, number = (last_id or "").partition("-")
        if epoch == self._epoch and number.isdigit():
            last, oldest = int(number), self._recent[0][0] if self._recent else self._number + 1
            if oldest - 1 <= last <= self._number:
                return [event for at, event in self._recent if at > last] or [b": up to date\n\n"]
        return [self._reload_event()]

    def _subscribe(self, subscriber: Subscriber) -> None:
        if not self._subscribers:
            self._loop = asyncio.get_running_loop()
            self._has_changes = asyncio.Event()
            # Commits are not recorded while there is no subscriber, so a stream cannot continue from an earlier event.
            self._changes.clear()
            self._number += 1
            self._recent.clear()
            self._store.signals.subscribe(self._on_commit)
            self._publisher = asyncio.create_task(self._publish_forever())
        self._subscribers.add(subscriber)

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._publisher:
            self._store.signals.unsubscribe(self._on_commit)
            self._publisher.cancel()

    def _on_commit(self, topic: Topic) -> None:
        """Record one change announced by a commit. Called in the thread that commits."""
        kind, rollout_id = topic
        with self._lock:
            is_first = not self._changes
            if kind in _FIELDS and len(ids := self._changes[_FIELDS[kind]]) <= MAX_IDS_PER_EVENT:
                ids.add(rollout_id)
        if is_first or topic == CLOSED:
            with suppress(RuntimeError):  # the loop is closed, and so are all subscriptions
                self._loop.call_soon_threadsafe(self._close if topic == CLOSED else self._has_changes.set)

    def _close(self) -> None:
        for subscriber in self._subscribers:
            _replace_pending(subscriber, None)

    async def _publish_forever(self) -> None:
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            await self.publish()
            # The first change is published immediately; changes that closely follow it share an event.
            await asyncio.sleep(COALESCE_SECONDS)

    async def publish(self) -> None:
        """Send the recorded changes to every subscriber."""
        with self._lock:
            changes, self._changes = self._changes, defaultdict[str, set[str]](set)
        if not changes:
            return
        self._number += 1
        try:
            event = self._event(await self._describe(changes))
        except StoreUnavailable:
            event = self._reload_event()
        self._recent.append((self._number, event))
        for subscriber in self._subscribers:
            if subscriber.full():
                _replace_pending(subscriber, self._reload_event())
            else:
                subscriber.put_nowait(event)

    async def _describe(self, changes: Mapping[str, set[str]]) -> dict[str, Any]:
        is_too_large = any(len(ids) > MAX_IDS_PER_EVENT for ids in changes.values())
        ids = [] if is_too_large else sorted(changes.get("rollouts", ()))
        rollouts = (await self._store.query_rollouts(ids, cut_at=0)).items if ids else []
        return {
            "rollouts": {rollout.rollout_id: rollout.model_dump(exclude=_OMITTED_FIELDS) for rollout in rollouts},
            "spans": sorted(changes.get("spans", ())),
            "workers": "workers" in changes,
            "resources": "resources" in changes,
            "everything": is_too_large,
        }

    def _reload_event(self) -> bytes:
        return self._event({"everything": True, "read_only": self._store.read_only})

    def _event(self, data: dict[str, Any]) -> bytes:
        return b"id: %s-%d\ndata: %s\n\n" % (self._epoch.encode(), self._number, to_json(data))


async def _next_event(subscriber: Subscriber) -> bytes | None:
    try:
        async with asyncio.timeout(KEEP_ALIVE_INTERVAL):
            return await subscriber.get()
    except TimeoutError:
        return b": keep-alive\n\n"


def _replace_pending(subscriber: Subscriber, event: bytes | None) -> None:
    while not subscriber.empty():
        subscriber.get_nowait()
    subscriber.put_nowait(event)
