"""What changes in the store, told as it happens: `GET /events`, server-sent events for those who look on.

Commits tell which rollouts, spans, workers and resources they changed. That is gathered for a quarter of a second,
made into one event, and the same bytes go to everybody: twenty open pages cost little more than one. Who was away for
a moment says with Last-Event-ID what it heard last; who missed more than is kept, or reads too slowly, is told that
everything may have changed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ...errors import StoreBusy, StoreUnavailable
from ..db.signals import CLOSED, Signals, kind_and_id
from ..sql import SqlStore

GATHER_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 15.0
MOST_ROLLOUTS = 100
"""Rollouts told of one by one in an event; of more it says that everything may have changed."""
MOST_LISTENERS = 200
HELD_FOR_A_LISTENER = 16
"""Events that wait for one slow reader; 16 quarters of a second, some 400 kB at the very most."""
KEPT_FOR_RETURN = 240
"""Events kept for those who come back: a minute of them."""

_NOT_TOLD = {"input", "config", "metadata"}
"""What does not change by itself, and may be large."""


@dataclass
class Change:
    """What several commits changed, together."""

    rollouts: set[str] = field(default_factory=set[str])
    spans: set[str] = field(default_factory=set[str])
    workers: bool = False
    resources: bool = False

    def add(self, topic: str) -> None:
        """Note what a commit announced."""
        match kind_and_id(topic):
            case ("rollout" | "ended", rollout_id) if len(self.rollouts) <= MOST_ROLLOUTS:
                self.rollouts.add(rollout_id)
            case ("spans", rollout_id) if len(self.spans) <= MOST_ROLLOUTS:
                self.spans.add(rollout_id)
            case ("workers", _):
                self.workers = True
            case ("resources", _):
                self.resources = True
            case _:
                pass

    def __bool__(self) -> bool:
        return bool(self.rollouts or self.spans or self.workers or self.resources)


class Events:
    """Those who look on, and what they are told. Lives in one event loop; commits come from any thread."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._epoch = os.urandom(4).hex()
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT_FOR_RETURN)
        self._listeners: set[_Listener] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._something: asyncio.Event
        # Protects `_change` from the threads that commit.
        self._lock = threading.Lock()
        self._change = Change()

    def routes(self) -> list[Route]:
        return [Route("/events", self._endpoint, methods=["GET"])]

    async def _endpoint(self, request: Request) -> Response:
        if len(self._listeners) >= MOST_LISTENERS:
            raise StoreBusy(f"{MOST_LISTENERS} listen to this store's events already")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = self._events(request.headers.get("last-event-id"))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(self, last_id: str | None) -> AsyncGenerator[bytes]:
        listener = _Listener()
        self._join(listener)
        try:
            for event in self._missed(last_id):
                yield event
            while not listener.closed:
                yield await listener.next() or b": still here\n\n"
        finally:
            self._leave(listener)

    def _missed(self, last_id: str | None) -> list[bytes]:
        epoch, _, number = (last_id or "").partition("-")
        if epoch == self._epoch and number.isdigit():
            heard, oldest = int(number), self._kept[0][0] if self._kept else self._number + 1
            if oldest - 1 <= heard <= self._number:
                return [event for at, event in self._kept if at > heard] or [b": nothing missed\n\n"]
        return [self._everything()]

    # Who listens

    def _join(self, listener: _Listener) -> None:
        if not self._listeners:
            self._loop = asyncio.get_running_loop()
            self._something = asyncio.Event()
            # What was committed while nobody listened is not in what is kept.
            self._change = Change()
            self._number += 1
            self._kept.clear()
            self._signals.tap(self._heard)
            self._gathering = asyncio.create_task(self._gather())
        self._listeners.add(listener)

    def _leave(self, listener: _Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self._gathering:
            self._signals.untap(self._heard)
            self._gathering.cancel()

    def _heard(self, topic: str) -> None:
        """Called by the thread that commits, for each thing that a commit announces."""
        with self._lock:
            first = not self._change
            self._change.add(topic)
        if first or topic == CLOSED:
            with suppress(RuntimeError):  # the loop has closed: nobody listens there any more
                self._loop.call_soon_threadsafe(self._close if topic == CLOSED else self._something.set)

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()

    @property
    def _signals(self) -> Signals:
        return self._store.signals

    # What they are told

    async def _gather(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            await self._tell()
            # The first change is told at once; what follows it closely comes together.
            await asyncio.sleep(GATHER_SECONDS)

    async def _tell(self) -> None:
        with self._lock:
            change, self._change = self._change, Change()
        if not change:
            return
        self._number += 1
        try:
            news = to_json(await self._news(change))
        except StoreUnavailable:
            event = self._everything()
        else:
            event = b"id: %s-%d\ndata: %s\n\n" % (self._epoch.encode(), self._number, news)
        self._kept.append((self._number, event))
        for listener in self._listeners:
            if not listener.offer(event):
                listener.start_over(self._everything())

    async def _news(self, change: Change) -> dict[str, Any]:
        everything = len(change.rollouts) > MOST_ROLLOUTS or len(change.spans) > MOST_ROLLOUTS
        told = [] if everything else sorted(change.rollouts)
        rollouts = (await self._store.query_rollouts(told, cut_at=0)).items if told else []
        return {
            "rollouts": {rollout.rollout_id: rollout.model_dump(exclude=_NOT_TOLD) for rollout in rollouts},
            "spans": sorted(change.spans),
            "workers": change.workers,
            "resources": change.resources,
            "everything": everything,
        }

    def _everything(self) -> bytes:
        news = to_json({"everything": True, "read_only": self._store.read_only})
        return b"id: %s-%d\ndata: %s\n\n" % (self._epoch.encode(), self._number, news)


class _Listener:
    """One reader, and the events that wait for it."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: deque[bytes] = deque()
        self._something = asyncio.Event()

    def offer(self, event: bytes) -> bool:
        """False when too many wait already."""
        if len(self._waiting) >= HELD_FOR_A_LISTENER:
            return False
        self._waiting.append(event)
        self._something.set()
        return True

    def start_over(self, event: bytes) -> None:
        self._waiting.clear()
        self.offer(event)

    def close(self) -> None:
        self.closed = True
        self._something.set()

    async def next(self) -> bytes:
        """What waits; nothing after a while without anything."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await self._something.wait()
        self._something.clear()
        events = b"".join(self._waiting)
        self._waiting.clear()
        return events
