"""`GET /events`: changes to the store as server-sent events.

Each commit announces its changes to rollouts, spans, workers and resources. The feed combines all changes announced
within a quarter of a second into one event and sends the same bytes to every subscriber, so that 20 open dashboards
cost little more than one. A client that reconnects with a Last-Event-ID header receives the events that it missed. If
those events are no longer available, or if a client reads too slowly, the client gets an event that tells it to reload
everything.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...errors import InvalidInput, StoreBusy, StoreUnavailable
from ...http.limits import Limits
from ..db.signals import CLOSED, Topic
from ..sql import SqlStore

COALESCE_SECONDS = 0.25
KEEP_ALIVE_INTERVAL = 15.0
MAX_IDS_PER_EVENT = 100
"""Maximum number of rollout ids in one field of an event.

If more rollouts are affected, the event tells clients to reload everything.
"""
MAX_PENDING_EVENTS = 16
"""Maximum number of events buffered for a slow subscriber.

This many events cover four seconds of changes. An event for 100 rollouts takes about 45 kB, and more if attempts failed
with long tracebacks.
"""
MAX_REPLAYED_EVENTS = 240
"""Maximum number of events kept for clients that reconnect. This many events cover one minute of changes."""

_EVENT_ID = re.compile(r"[!-~]{0,64}")
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_MEDIA_TYPE = "text/event-stream"

Subscriber = asyncio.Queue[bytes | None]
"""A queue of the events that one client has not read yet. None ends the client's stream."""

_OMITTED_FIELDS = {"input", "config", "metadata"}
"""Rollout fields that events omit, because these fields may be large and change only through `update_rollout`."""


_FIELDS = {"rollout": "rollouts", "ended": "rollouts", "spans": "spans", "workers": "workers", "resources": "resources"}
"""The event field for each kind of change. Changes of other kinds are not published."""


class ChangeFeed:
    """Publishes changes to subscribed clients. Use it in only one event loop; commits may happen in any thread."""

    def __init__(self, store: SqlStore, max_listeners: int = Limits.listeners) -> None:
        self._store = store
        self._max_listeners = max_listeners
        self._epoch = os.urandom(4).hex()
        self._number = 0
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=MAX_REPLAYED_EVENTS)
        self._subscribers: set[Subscriber] = set()
        self._publisher: asyncio.Task[None] | None = None
        self._has_changes: asyncio.Event
        # Protects `_changes`: committing threads add to it while the event loop empties it.
        self._lock = threading.Lock()
        self._changes: defaultdict[str, set[str]] = defaultdict(set)
        """The changes to publish in the next event: ids of affected rollouts by event field.

        For workers and resources, the only id is an empty string.
        """

    async def get_events(self, request: Request) -> Response:
        """Return a stream of all events after the last one that the client received."""
        last_id = request.headers.get("last-event-id", "")
        if not _EVENT_ID.fullmatch(last_id):
            message = "Last-Event-ID is not the id of an event; send the id of the last event received, or omit it"
            raise InvalidInput(message, field="Last-Event-ID")
        if request.method == "HEAD":
            return Response(media_type=_MEDIA_TYPE, headers=_HEADERS)
        if len(self._subscribers) >= (limit := self._max_listeners):
            message = f"the store already has {limit} event streams; try again later, or raise --max-listeners"
            raise StoreBusy(f"{message} (Limits.listeners)")
        stream = self.stream(last_id)
        # The first `anext` subscribes the stream. If it were called only when the response starts, several requests
        # could pass the check above at the same time.
        return _EventStream(await anext(stream), stream)

    async def stream(self, last_id: str | None) -> AsyncGenerator[bytes]:
        """Yield the events that followed the one with the id `last_id`, and then each new event.

        If the feed no longer has all of the events that followed, it yields one event that tells the client to reload
        everything. Comments keep the connection alive between events.
        """
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
        if epoch == self._epoch and number.isdecimal():
            last, oldest = int(number), self._recent[0][0] if self._recent else self._number + 1
            if oldest - 1 <= last <= self._number:
                return [event for at, event in self._recent if at > last] or [b": up to date\n\n"]
        return [self._reload_event()]

    def _subscribe(self, subscriber: Subscriber) -> None:
        if not self._subscribers:
            self._loop = asyncio.get_running_loop()
            self._has_changes = asyncio.Event()
            # Changes were not recorded while there was no subscriber. Discard the earlier events and skip a number, so
            # that a client that reconnects with the id of an earlier event is told to reload everything.
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
        """Record one announced change, or end all streams if the topic is `CLOSED`. Called in the announcing thread."""
        kind, rollout_id = topic
        with self._lock:
            is_first = not self._changes
            if kind in _FIELDS and len(ids := self._changes[_FIELDS[kind]]) <= MAX_IDS_PER_EVENT:
                ids.add(rollout_id)
        if is_first or topic == CLOSED:
            with suppress(RuntimeError):  # raised if the loop is closed, in which case no clients are left
                self._loop.call_soon_threadsafe(self._close if topic == CLOSED else self._has_changes.set)

    def _close(self) -> None:
        for subscriber in self._subscribers:
            _replace_pending(subscriber, None)

    async def _publish_forever(self) -> None:
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            await self.publish()
            # The first change is published immediately. All changes made during this pause share the next event.
            await asyncio.sleep(COALESCE_SECONDS)

    async def publish(self) -> None:
        """Send the changes recorded since the last event to every subscriber, as one event."""
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


class _EventStream(StreamingResponse):
    """Sends the event `first` and then the remaining events of `stream`, and closes `stream` when the response ends.

    If a response is cancelled before it starts, nothing else closes its stream, which would then remain subscribed.
    """

    def __init__(self, first: bytes, stream: AsyncGenerator[bytes]) -> None:
        async def events() -> AsyncGenerator[bytes]:
            yield first
            async for event in stream:
                yield event

        super().__init__(events(), media_type=_MEDIA_TYPE, headers=_HEADERS)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._stream):
            await super().__call__(scope, receive, send)


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
