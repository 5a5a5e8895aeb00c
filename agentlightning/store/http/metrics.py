"""Counters of one server, as Prometheus reads them: `GET /metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...http.limits import Gate
from ..contract import Statistics
from ..operations import table
from ..sql import SqlStore

if TYPE_CHECKING:
    from ..otlp.export import Counts, OtlpExporter

KIND = "text/plain; version=0.0.4"

COUNTED = {
    "requeues": "Rollouts put back in the queue after an attempt that failed.",
    "stale_reports": "Reports refused with 409: another attempt speaks, or it has ended.",
    "duplicate_spans": "Spans that were there already.",
    "lost_runners": "Attempts given up because their runner fell silent.",
    "timeouts": "Attempts given up because they took too long.",
    "late_spans": "Spans that came after their attempt had ended.",
    "incomplete_traces": "Attempts that ended without their runner's report, so perhaps without all their spans.",
}


class Metrics:
    """What one server has answered, and what its store has counted since it started."""

    def __init__(self, store: SqlStore, gate: Gate, exporter: OtlpExporter | None = None) -> None:
        self._store = store
        self._exporter = exporter
        self._gate = gate
        self._operations = {*table(), "health", "ready", "events", "metrics", "v1"}
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, float] = {}

    def note(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        name = path[1:].partition("/")[0]
        if name not in self._operations:  # strangers ask for anything; that is one line
            name = "other"
        self._answers[name, status] += 1
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    async def text(self) -> str:
        """All of it."""
        held = await self._store.statistics()
        exported = await self._exporter.counts() if self._exporter else []
        lines = (*self._counted(), *self._answered(), *_held(held), *_exported(exported))
        return "".join(f"{line}\n" for line in lines)

    def _counted(self) -> Iterator[str]:
        for name, meaning in COUNTED.items():
            yield from _head(f"agl_{name}_total", "counter", meaning)
            yield f"agl_{name}_total {self._store.counters[name]}"
        yield from _head("agl_refused_total", "counter", "Requests refused with 429 because the store was full.")
        yield f"agl_refused_total {self._gate.refused}"

    def _answered(self) -> Iterator[str]:
        yield from _head("agl_requests_total", "counter", "Requests answered, by operation and status.")
        for (name, status), count in sorted(self._answers.items()):
            yield f'agl_requests_total{{operation="{name}",status="{status}"}} {count}'
        yield from _head("agl_request_seconds_total", "counter", "Time spent on them, waiting included.")
        for name, seconds in sorted(self._seconds.items()):
            yield f'agl_request_seconds_total{{operation="{name}"}} {seconds:.6f}'
        yield from _head("agl_bodies_bytes", "gauge", "Bytes of requests being worked on.")
        yield f"agl_bodies_bytes {self._gate.bytes}"


def _held(held: Statistics) -> Iterator[str]:
    for kind in ("rollouts", "workers"):
        yield from _head(f"agl_{kind}", "gauge", f"{kind.capitalize()} by status.")
        yield from (f'agl_{kind}{{status="{status}"}} {count}' for status, count in held[kind].items())
    for name in ("attempts", "spans", "resources", "queue_depth"):
        yield from _head(f"agl_{name}", "gauge", name.replace("_", " ").capitalize() + " in the store.")
        yield f"agl_{name} {held[name]}"


_EXPORTED = {
    "sent": ("exported_spans_total", "counter", "Spans that an OTLP target has taken."),
    "rejected": ("export_rejected_spans_total", "counter", "Spans that an OTLP target will never take."),
    "failures": ("export_failures_total", "counter", "Tries to send spans that failed; they are sent again."),
    "waiting": ("export_waiting_spans", "gauge", "Spans that wait in the store for an OTLP target, at most."),
}


def _exported(counts: list[Counts]) -> Iterator[str]:
    if not counts:
        return
    for field, (name, kind, meaning) in _EXPORTED.items():
        yield from _head(f"agl_{name}", kind, meaning)
        yield from (f'agl_{name}{{target="{each.target}"}} {getattr(each, field)}' for each in counts)


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
