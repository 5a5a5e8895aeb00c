"""`GET /metrics`: the counters and gauges of a store server in the Prometheus text format."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ...http.limits import AdmissionControl
from ..contract import Statistics
from ..operations import operation_table
from ..sql import SqlStore

if TYPE_CHECKING:
    from ..otlp.export import ExportCounts, OtlpExporter

CONTENT_TYPE = "text/plain; version=0.0.4"

STORE_COUNTERS = {
    "requeues": "Rollouts returned to the queue after a failed attempt.",
    "stale_reports": "Reports rejected with 409 because of a newer attempt or a final status.",
    "duplicate_spans": "Spans that were already stored.",
    "lost_runners": "Attempts ended because their runner stopped sending heartbeats.",
    "timeouts": "Attempts ended because they exceeded their timeout.",
    "late_spans": "Spans received after the end of their attempt.",
    "incomplete_traces": "Attempts that ended without a report from their runner and may lack spans.",
}

EXPORT_METRICS = {
    "sent": ("exported_spans_total", "counter", "Spans that an OTLP target has accepted."),
    "rejected": ("export_rejected_spans_total", "counter", "Spans that an OTLP target has permanently rejected."),
    "failures": ("export_failures_total", "counter", "Failed attempts to send spans; they are retried."),
    "waiting": ("export_waiting_spans", "gauge", "Maximum number of stored spans not yet sent to an OTLP target."),
}


class Metrics:
    """Counts the requests to one server, and renders these counts together with the metrics of the server's store."""

    def __init__(self, store: SqlStore, admission: AdmissionControl, exporter: OtlpExporter | None = None) -> None:
        self._store = store
        self._exporter = exporter
        self._admission = admission
        self._operations = {*operation_table(), "health", "ready", "events", "metrics", "v1"}
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def record(self, path: str, status: int, seconds: float) -> None:
        """Count one completed request, and add its duration to the total time for its operation."""
        name = path[1:].partition("/")[0]
        if name not in self._operations:  # all other paths share one time series
            name = "other"
        self._requests[name, status] += 1
        self._seconds[name] += seconds

    async def render(self) -> str:
        """Return all metrics in the Prometheus text format."""
        statistics = await self._store.statistics()
        exported = await self._exporter.counts() if self._exporter else []
        lines = (*self._store_counters(), *self._request_metrics(), *_gauges(statistics), *_export_metrics(exported))
        return "".join(f"{line}\n" for line in lines)

    def _store_counters(self) -> Iterator[str]:
        for name, meaning in STORE_COUNTERS.items():
            yield from _metric(f"agl_{name}_total", "counter", meaning, [("", self._store.counters[name])])
        refused = [("", self._admission.refused)]
        yield from _metric("agl_refused_total", "counter", "Requests rejected with 429 because of the limits.", refused)

    def _request_metrics(self) -> Iterator[str]:
        counts = [(f'operation="{name}",status="{status}"', count) for (name, status), count in self._requests.items()]
        yield from _metric("agl_requests_total", "counter", "Completed requests by operation and status.", counts)
        seconds = [(f'operation="{name}"', f"{seconds:.6f}") for name, seconds in self._seconds.items()]
        yield from _metric(
            "agl_request_seconds_total", "counter", "Time spent on completed requests, including waiting.", seconds
        )
        held = [("", self._admission.bytes)]
        yield from _metric("agl_bodies_bytes", "gauge", "Total bytes of the request bodies being processed.", held)


def _gauges(statistics: Statistics) -> Iterator[str]:
    for kind in ("rollouts", "workers"):
        counts = [(f'status="{status}"', count) for status, count in statistics[kind].items()]
        yield from _metric(f"agl_{kind}", "gauge", f"{kind.capitalize()} by status.", counts)
    for name in ("attempts", "spans", "resources", "queue_depth"):
        meaning = name.replace("_", " ").capitalize() + " in the store."
        yield from _metric(f"agl_{name}", "gauge", meaning, [("", statistics[name])])


def _export_metrics(counts: list[ExportCounts]) -> Iterator[str]:
    for field, (name, kind, meaning) in EXPORT_METRICS.items() if counts else ():
        samples = [(f'target="{each.target}"', getattr(each, field)) for each in counts]
        yield from _metric(f"agl_{name}", kind, meaning, samples)


def _metric(name: str, kind: str, meaning: str, samples: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield the lines for one metric: its description, its type, and the labels and value of each sample."""
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    yield from (f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in sorted(samples))
