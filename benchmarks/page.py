"""Writes docs/reference/benchmarks.md from what the benchmarks have measured: benchmarks/results/*.json.

    python -m benchmarks.page

Run it after a benchmark; a test tells when the page is behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs/reference/benchmarks.md"

Row = tuple[str, str, str]
"""What was measured, the figure, and the one wanted."""


def page() -> str:
    """The page, as it should stand."""
    return "\n".join(["# Benchmarks", "", _INTRODUCTION, *_sections()])


_INTRODUCTION = """\
What the parts cost, as last measured on two cores shared by everything: client, server and database. Machines are
noisy, so look at CPU and ratios before times. The load is the machine's average over a minute, as noted with
the result: far above two, a time is the load's as much as ours, a 99th percentile above all. Each section's command
measures again and writes the file it names; `python -m benchmarks.page` then writes this page."""


def _sections() -> Iterator[str]:
    yield from _section("Install and start", "footprint", _footprint)
    yield from _section("The store", "store", _store)
    yield from _section("Tracing", "tracing", _tracing)
    yield from _section("The trainer's loop", "trainer", _trainer)
    yield from _section("The proxy", "proxy", _proxy)
    yield from _section("Spans sent on over OTLP", "otlp_export", _otlp_export)
    yield from _section("The dashboard", "dashboard", _dashboard)
    yield from _long_runs()


def _section(title: str, name: str, rows: Any) -> Iterator[str]:
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    yield from ("", f"## {title}", "", f"`python -m benchmarks.{name}` → `benchmarks/results/{name}.json`", "")
    yield from ("| | measured | wanted |", "|---|---|---|")
    yield from (f"| {what} | {figure} | {wanted} |" for what, figure, wanted in rows(results))
    if load := _load(results):
        yield from ("", f"The load was {load}.")


def _load(results: dict[str, Any]) -> str:
    """The load average while it was measured; nothing where it was not noted."""
    machine = results["machine"] if isinstance(results.get("machine"), dict) else results
    load = results.get("load") or machine.get("load") or machine.get("load_before")
    one_minute = load[0] if isinstance(load, list) else load
    return "" if one_minute is None else f"{one_minute:.1f}"


def _long_runs() -> Iterator[str]:
    yield from ("", "## Long runs", "")
    yield "What the [promises](../explanation/promises.md) are tried with for longer than in each run of the tests."
    yield from ("", "| `python -m tests.faults.…` | what came of it | wanted | load |", "|---|---|---|---|")
    for name, run in _LONG_RUNS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            results: dict[str, Any] = json.loads(path.read_text())
            told = run.told(results) + _what_is_missing(results, run)
            yield f"| `{name}` | {told} | {run.wanted} | {_load(results)} |"


class _LongRun(NamedTuple):
    told: Callable[[dict[str, Any]], str]
    wanted: str
    done: Callable[[dict[str, Any]], int]
    """How many times it was tried."""
    wanted_times: int


def _what_is_missing(found: dict[str, Any], run: _LongRun) -> str:
    done = run.done(found)
    if done >= run.wanted_times and not found.get("broken_off"):
        return ""
    why = "broken off after" if found.get("broken_off") else "only"
    return f" (**{why} {done:,} of {run.wanted_times:,}**)"


def _kills(found: dict[str, Any]) -> str:
    acknowledged = f"of {sum(found['acknowledged'].values()):,} acknowledged operations"
    return f"{found['cycles']:,} times `kill -9` under load: {acknowledged} {len(found['wrong'])} lost or done twice"


def _power_cuts(found: dict[str, Any]) -> str:
    lost = f"of {found['acknowledged']:,} acknowledged operations {len(found['lost'])} lost"
    return f"{found['cuts']:,} power cuts: {lost}, {len(found['damaged'])} databases damaged"


def _stale_runners(found: dict[str, Any]) -> str:
    return f"{found['schedules']:,} runners back from beyond their lease: {len(found['effective'])} changed anything"


def _machine(found: dict[str, Any]) -> str:
    runs = ", ".join(f"{way} {runs:,}" for way, runs in found["runs"].items())
    steps = sum(found["steps"].values())
    return f"runs against the reference: {runs}; {steps:,} steps compared, {found['differences']} differences"


def _lossy(found: dict[str, Any]) -> str:
    wrong = len(found["wrong"])
    return f"{found['calls']:,} changing calls met {found['faults']:,} faults: {wrong} did not happen exactly once"


def _fuzz(found: dict[str, Any]) -> str:
    return f"{found['tried']:,} made-up requests: {len(found['broken'])} answers of 500 or more"


def _slow_clients(found: dict[str, Any]) -> str:
    crowd = f"{found['idle']:,} idle and {found['slow']} slow connections"
    return f"`/health` beside {crowd}: 99th percentile {found['p99_in_ms']:.0f} ms of {found['asked']} calls"


def _many_spans(found: dict[str, Any]) -> str:
    back = f"back {found['reopened_in_ms'] / 1000:.1f} s after `kill -9`"
    return (
        f"{found['acknowledged']:,} spans in {found['megabytes']:.0f} MB of memory: {back}, {len(found['lost'])} lost"
    )


_LONG_RUNS = {
    "kill_store": _LongRun(_kills, "0 of 1,000 kills", lambda found: found["cycles"], 1_000),
    "power_cut": _LongRun(_power_cuts, "0 of 10,000 cuts", lambda found: found["cuts"], 10_000),
    "stale_runner": _LongRun(_stale_runners, "0 of 1,000", lambda found: found["schedules"], 1_000),
    "machine": _LongRun(_machine, "0 of 20,000 runs each", lambda found: min(found["runs"].values()), 20_000),
    "lossy": _LongRun(_lossy, "0, each of 17 calls × 8 faults × 200", lambda found: found["calls"], 17 * 8 * 200),
    "fuzz": _LongRun(_fuzz, "0 of 200,000", lambda found: found["tried"], 200_000),
    "slow_clients": _LongRun(_slow_clients, "< 100 ms beside 10,000", lambda found: found["idle"], 10_000),
    "many_spans": _LongRun(_many_spans, "≤ 2 s with 1,000,000", lambda found: found["acknowledged"], 1_000_000),
}


def _footprint(results: dict[str, Any]) -> Iterator[Row]:
    yield "`import agentlightning`", f"{results['import_cpu_seconds']} s CPU", "≤ 0.3"
    yield "`agl --help`", f"{results['help_cpu_seconds']} s CPU", "≤ 0.5"
    yield "direct dependencies", f"{results['direct_dependencies']}", "≤ 15"
    yield "base install, as it comes", f"{results['site_packages_MB']} MB", "≤ 60"
    yield "base install, with Python's byte code", f"{results['site_packages_with_bytecode_MB']} MB", ""
    yield "an idle store", f"{results['idle_store_MB']} MB", "≤ 90"


_WANTED = {"32x6": "≥ 500", "100x10": "≥ 350", "256x4 queue": "≥ 500", "512x20": "≥ 200"}
_DATABASES = {
    "full": "SQLite",
    "process": "SQLite, `--durability process`",
    "memory": "in memory",
    "postgres": "PostgreSQL",
}


def _store(results: dict[str, Any]) -> Iterator[Row]:
    for backend, parts in results["ours"].items():
        wanted = _WANTED if backend == "full" else {"32x6": "≥ 250"} if backend == "postgres" else {}
        for load, measured in parts.get("lifecycle", {}).items():
            yield f"{_DATABASES[backend]}: life cycles at {load}", _lifecycle(measured), wanted.get(load, "")
        for load, measured in parts.get("wake", {}).items():
            limit = {"full": "≤ 12 ms", "process": "≤ 3 ms"}.get(backend, "")
            yield f"{_DATABASES[backend]}: a runner is woken, {load}", f"{measured['p50_ms']} ms", limit
    yield from _growth(results["ours"]["full"].get("growth", {}))


def _lifecycle(measured: dict[str, Any]) -> str:
    cpu = f"CPU {measured['server_cpu_ms']} ms server, {measured['client_cpu_ms']} ms client"
    database = f", {measured['database_cpu_ms']} ms database" if "database_cpu_ms" in measured else ""
    return f"{measured['per_second']:.0f} a second; {cpu}{database}"


def _growth(growth: dict[str, Any]) -> Iterator[Row]:
    if not growth:
        return
    empty, *_, full = growth.values()
    rollouts = f"{int(list(growth)[-1]):,}"
    for call in ("enqueue", "claim", "add", "finish", "rollout", "spans"):
        ratio = full[call] / empty[call]
        yield f"`{call}` with {rollouts} rollouts", f"{full[call]} ms, {ratio:.1f} × an empty store's", "≤ 2 ×"
    for listed in ("page", "page newest", "page failed", "workers"):
        yield f"first page, `{listed}`, with {rollouts} rollouts", f"{full[listed]} ms", "≤ 50 ms"
    yield f"memory with {rollouts} rollouts of ten spans", f"{full['server_mb']} MB", "≤ 512 MB"
    yield "on disk, a span of 4.9 KB", f"{full['bytes_per_span']} bytes", ""


def _tracing(results: dict[str, Any]) -> Iterator[Row]:
    for call, measured in results["wire tap, per call"].items():
        share = f"{measured['added_us'] / measured['bare_us']:.1%} of {measured['bare_us'] / 1000:.1f} ms"
        least = f"{measured['added_in_the_quietest_tenth_us']:.0f} µs in the quietest tenth"
        wanted = "≤ 5 %" if "stream" in call else "≤ 300 µs"
        yield f"wire tap, added to a call ({call})", f"{measured['added_us']:.0f} µs, {share}; {least}", wanted
    end = results["end of a span in the agent's thread"]
    yield "end of a span in the agent's thread, median of its CPU", f"{end['cpu_p50_us']} µs", "≤ 20 µs"
    yield "the same by the clock, the exporter's thread beside it", f"{end['p50_us']} µs", ""


def _trainer(results: dict[str, Any]) -> Iterator[Row]:
    for strategy in ("cs", "shm"):
        measured = results[strategy]
        yield f"{strategy}: rollouts a second", f"{measured['rollouts_per_second']}", "≥ 150"
        yield f"{strategy}: from `fit` to the first rollout", f"{measured['seconds_until_first_rollout_runs']} s", "≤ 3"
        alone = measured["median_milliseconds_of_a_rollout_alone"]
        yield f"{strategy}: a rollout alone, median", f"{alone} ms", "≤ 10"
    yield "`shm` against `cs`, in turn", f"{results['shm_is_so_many_times_as_fast']} ×", "≥ 1"


def _proxy(results: dict[str, Any]) -> Iterator[Row]:
    call = results["milliseconds_a_call"]
    yield "added to a call, passed on only", f"{call['added_when_passed']} ms", ""
    yield "added to a call, recorded in a store on disk", f"{call['added_when_recorded']} ms", "≤ 3"
    if within := call.get("added_when_recorded_within"):
        yield "the same where the proxy's process has the store", f"{within} ms", "≤ 3"
    first = results["milliseconds_to_a_streams_first_byte"]
    yield "first streamed byte, later than direct", f"{first['added_when_recorded']} ms", "≤ 5"
    recorded = results["at_once"]["recorded"]
    yield "recorded calls a second, 32 at once", f"{recorded['calls_a_second']}", "≥ 300"
    yield "the same by the proxy's CPU alone", f"{recorded['calls_a_second_of_a_whole_core']}", "≥ 300"
    streams = results["streams_at_once"]
    yield "streams at once, all whole", f"{streams['recorded']['whole']} of {streams['streams']}", "500"
    memory = results["proxys_memory_MB"]
    after, each = memory["after_each_round"], memory["streams_and_calls_each"]
    yield f"memory after the first of {len(after)} rounds of {each} streams and calls", f"{after[0]} MB", ""
    yield "its growth in the last half of them", f"{memory['growth_of_the_last_half']} MB", "flat"


def _otlp_export(results: dict[str, Any]) -> Iterator[Row]:
    for name, taken in results.items():
        if name.startswith("milliseconds_"):
            to = name.removeprefix("milliseconds_").replace("_", " ")
            yield f"a span stored, {to}", f"{taken['median']} ms, p99 {taken['p99']} ms", "as plain"


def _dashboard(results: dict[str, Any]) -> Iterator[Row]:
    for what, measured in results["seconds"].items():
        yield f"{what}, {results['rollouts']:,} rollouts", f"{measured['median']:.2f} s", f"≤ {measured['budget']:g} s"
    for view, measured in results["core share with 20 open pages"].items():
        yield f"20 open pages of {view}", f"{measured['pages']:.1%} of a core", "≤ 5 %"


if __name__ == "__main__":
    PAGE.write_text(page() + "\n")
