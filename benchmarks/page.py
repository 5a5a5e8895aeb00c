"""Generate docs/reference/benchmarks.md from the results of the benchmarks, benchmarks/results/*.json.

    python -m benchmarks.page

Run this after a benchmark; a test fails if the page is outdated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .results import RESULTS, ROOT

PAGE = ROOT / "docs/reference/benchmarks.md"

Row = tuple[str, str, str]
"""Quantity, result and target."""


def page() -> str:
    """Return the page for the current results."""
    return "\n".join(["# Benchmarks", "", _INTRODUCTION, *_sections()])


_INTRODUCTION = """\
This page contains the most recent results of every benchmark. The machine has two cores, which the client, the
server and the database share. Other processes use the same machine, so compare CPU times and ratios rather than elapsed
times. The load is the machine's one-minute load average during the benchmark. If it is above two, other processes
affect the elapsed times, especially the 99th percentiles. A row without a target is for information only. The command
in each section runs the benchmark and writes the file named next to it. `python -m benchmarks.page` then generates this
page. The [glossary](glossary.md) explains terms such as *rollout* and *span*."""


def _sections() -> Iterator[str]:
    yield from _section("Install and start", "footprint", _footprint)
    yield from _section("The store", "store", _store)
    yield from _section("Tracing", "tracing", _tracing)
    yield from _section("The trainer's loop", "trainer", _trainer)
    yield from _section("The proxy", "proxy", _proxy)
    yield from _section("OTLP export", "otlp_export", _otlp_export)
    yield from _section("The dashboard", "dashboard", _dashboard)
    yield from _section("Hostile requests", "bombs", _bombs)
    yield from _section("Structure of the code", "structure", _structure)
    yield from _long_runs()


_NOTES = {
    "store": """\
A life cycle is one rollout from being enqueued to its final status. `32x6` means 32 concurrent runners and 6 spans
for each rollout. With `queue`, a separate client enqueues the rollouts in batches; otherwise each runner enqueues its
own.""",
    "tracing": "The benchmark measures the time that tracing adds to an agent's calls and spans.",
    "trainer": """\
The agent does nothing, so the times are the overhead of `Trainer.fit`. `cs` runs runners in processes, `shm` in
threads.""",
    "otlp_export": "The median and the 99th percentile (p99) of the time until the store acknowledges a span.",
    "dashboard": "The time from an action in the browser until its result is visible.",
    "bombs": """\
Each of these requests arrives ten times a second, without a token, from another process. If the store requires a token,
32 runners use it meanwhile; their rate is compared with their rate just before.""",
    "structure": """\
A change of file is a call or return between two functions of the package that are in different files. Fewer changes
make the code easier to follow.""",
}
"""Notes shown below the section headings."""


def _section(title: str, name: str, rows: Callable[[dict[str, Any]], Iterator[Row]]) -> Iterator[str]:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return
    results: dict[str, Any] = json.loads(path.read_text())
    yield from ("", f"## {title}", "", f"`python -m benchmarks.{name}` → `benchmarks/results/{name}.json`", "")
    yield from ([_NOTES[name], ""] if name in _NOTES else [])
    yield from ("| | result | target |", "|---|---|---|")
    yield from (f"| {quantity} | {result} | {target} |" for quantity, result, target in rows(results))
    if load := _load(results):
        yield from ("", f"The load was {load}.")


def _load(results: dict[str, Any]) -> str:
    """Return the load average during the benchmark, or an empty string if it was not recorded."""
    machine = results["machine"] if isinstance(results.get("machine"), dict) else results
    load = results.get("load") or machine.get("load") or machine.get("load_before")
    one_minute = load[0] if isinstance(load, list) else load
    return "" if one_minute is None else f"{one_minute:.1f}"


def _long_runs() -> Iterator[str]:
    yield from ("", "## Long runs", "")
    yield "Longer runs of the tests of the [store guarantees](../explanation/promises.md#figures) had these results."
    yield from ("", "| `python -m tests.faults.…` | result | target | load |", "|---|---|---|---|")
    for name, run in _LONG_RUNS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            results: dict[str, Any] = json.loads(path.read_text())
            yield f"| `{name}` | {run.describe(results)}{_shortfall(results, run)} | {run.target} | {_load(results)} |"


class _LongRun(NamedTuple):
    describe: Callable[[dict[str, Any]], str]
    target: str
    repetitions: Callable[[dict[str, Any]], int]
    target_repetitions: int


def _shortfall(results: dict[str, Any], run: _LongRun) -> str:
    """Return a note for a run that was interrupted or too short."""
    done = run.repetitions(results)
    if done >= run.target_repetitions and not results.get("broken_off"):
        return ""
    reason = "interrupted after" if results.get("broken_off") else "only"
    return f" (**{reason} {done:,} of {run.target_repetitions:,}**)"


def _kill_store(results: dict[str, Any]) -> str:
    acknowledged = f"of {sum(results['acknowledged'].values()):,} acknowledged operations"
    lost = f"{acknowledged}, {len(results['wrong'])} were lost or repeated"
    return f"{results['cycles']:,} times `kill -9` under load: {lost}"


def _power_cut(results: dict[str, Any]) -> str:
    lost = f"of {results['acknowledged']:,} acknowledged operations, {len(results['lost'])} were lost"
    return f"{results['cuts']:,} power cuts: {lost}; {len(results['damaged'])} databases were damaged"


def _stale_runner(results: dict[str, Any]) -> str:
    effective = len(results["effective"])
    return f"{results['schedules']:,} runners continued after the end of their lease: {effective} had any effect"


def _machine(results: dict[str, Any]) -> str:
    runs = ", ".join(f"{way} {runs:,}" for way, runs in results["runs"].items())
    steps = sum(results["steps"].values())
    return f"runs against the reference model: {runs}; {steps:,} steps compared, {results['differences']} differences"


def _lossy(results: dict[str, Any]) -> str:
    wrong = len(results["wrong"])
    calls = f"{results['calls']:,} calls that change data, with {results['faults']:,} faults"
    return f"{calls}: {wrong} did not take effect exactly once"


def _fuzz(results: dict[str, Any]) -> str:
    return f"{results['tried']:,} generated requests: {len(results['broken'])} responses with status 500 or more"


def _fuzz_parsers(results: dict[str, Any]) -> str:
    slowest = ", ".join(f"{parser} {time:.0f} ms" for parser, time in results["slowest_ms"].items())
    return (
        f"{results['tried']:,} generated texts: {len(results['broken'])} parsed wrongly or slowly; CPU time: {slowest}"
    )


def _slow_clients(results: dict[str, Any]) -> str:
    others = f"{results['idle']:,} idle and {results['slow']} slow connections"
    return f"`/health` with {others}: 99th percentile {results['p99_in_ms']:.0f} ms of {results['asked']} calls"


def _many_spans(results: dict[str, Any]) -> str:
    reopened = f"reopened {results['reopened_in_ms'] / 1000:.1f} s after `kill -9`"
    spans = f"{results['acknowledged']:,} spans in {results['megabytes']:.0f} MB of memory"
    return f"{spans}: {reopened}, {len(results['lost'])} lost"


def _address_space(results: dict[str, Any]) -> str:
    spans = f"{results['acknowledged']:,} spans under a limit of {results['limit_megabytes']} MB of address space"
    return f"{spans}: at most {results['peak_megabytes']:.0f} MB used, {len(results['failed'])} failures"


_LONG_RUNS = {
    "kill_store": _LongRun(_kill_store, "0 of 1,000 kills", lambda results: results["cycles"], 1_000),
    "power_cut": _LongRun(_power_cut, "0 of 10,000 cuts", lambda results: results["cuts"], 10_000),
    "stale_runner": _LongRun(_stale_runner, "0 of 1,000", lambda results: results["schedules"], 1_000),
    "machine": _LongRun(_machine, "0 of 20,000 runs each", lambda results: min(results["runs"].values()), 20_000),
    "lossy": _LongRun(
        _lossy, "0, with 17 calls × 8 faults, 200 times each", lambda results: results["calls"], 17 * 8 * 200
    ),
    "fuzz": _LongRun(_fuzz, "0 of 200,000", lambda results: results["tried"], 200_000),
    "fuzz_parsers": _LongRun(_fuzz_parsers, "0 of 20,000", lambda results: results["tried"], 20_000),
    "slow_clients": _LongRun(
        _slow_clients, "< 100 ms with 10,000 idle connections", lambda results: results["idle"], 10_000
    ),
    "many_spans": _LongRun(
        _many_spans, "≤ 2 s with 1,000,000 spans", lambda results: results["acknowledged"], 1_000_000
    ),
    "address_space": _LongRun(
        _address_space, "≤ 1,000 MB with 1,000,000 spans", lambda results: results["acknowledged"], 1_000_000
    ),
}


def _footprint(results: dict[str, Any]) -> Iterator[Row]:
    yield "`import agentlightning`", f"{results['import_cpu_seconds']} s CPU", "≤ 0.3"
    yield "`agl --help`", f"{results['help_cpu_seconds']} s CPU", "≤ 0.5"
    yield "direct dependencies", f"{results['direct_dependencies']}", "≤ 16"
    yield "base installation, without bytecode", f"{results['site_packages_MB']} MB", "≤ 60"
    yield "base installation, with Python's bytecode", f"{results['site_packages_with_bytecode_MB']} MB", ""
    yield "memory of an idle store", f"{results['idle_store_MB']} MB", "≤ 90"


_LIFECYCLE_TARGETS = {
    "full": {"32x6": "≥ 500", "100x10": "≥ 350", "256x4 queue": "≥ 500", "512x20": "≥ 200"},
    "postgres": {"32x6": "≥ 250"},
}
_WAKE_TARGETS = {"full": "≤ 12 ms", "process": "≤ 3 ms"}
_DATABASES = {
    "full": "SQLite",
    "process": "SQLite, `--durability process`",
    "memory": "in memory",
    "postgres": "PostgreSQL",
}


def _store(results: dict[str, Any]) -> Iterator[Row]:
    for backend, parts in results["ours"].items():
        targets = _LIFECYCLE_TARGETS.get(backend, {})
        for load, result in parts.get("lifecycle", {}).items():
            yield f"{_DATABASES[backend]}: life cycles, {load}", _lifecycle(result), targets.get(load, "")
        for load, result in parts.get("wake", {}).items():
            target = _WAKE_TARGETS.get(backend, "")
            yield (
                f"{_DATABASES[backend]}: time until a waiting runner gets a rollout, {load}",
                f"{result['p50_ms']} ms",
                target,
            )
    yield from _growth(results["ours"]["full"].get("growth", {}))


def _lifecycle(result: dict[str, Any]) -> str:
    cpu = f"CPU {result['server_cpu_ms']} ms server, {result['client_cpu_ms']} ms client"
    database = f", {result['database_cpu_ms']} ms database" if "database_cpu_ms" in result else ""
    return f"{result['per_second']:.0f} per second; {cpu}{database}"


_CALLS = {
    "enqueue": "enqueuing a rollout",
    "claim": "claiming a rollout",
    "add": "adding a span",
    "finish": "reporting a success",
    "rollout": "reading a rollout",
    "spans": "reading the spans of a rollout",
}
_LISTS = {
    "page": "the first 50 rollouts",
    "page newest": "the newest 50 rollouts",
    "page failed": "the first 50 failed rollouts",
    "workers": "the first 50 workers",
}


def _growth(growth: dict[str, Any]) -> Iterator[Row]:
    if not growth:
        return
    empty, *_, full = growth.values()
    rollouts = f"{int(list(growth)[-1]):,}"
    for call, label in _CALLS.items():
        ratio = full[call] / empty[call]
        yield (
            f"{label}, with {rollouts} rollouts",
            f"{full[call]} ms, {ratio:.1f} × the time in an empty store",
            "≤ 2 ×",
        )
    for listed, label in _LISTS.items():
        yield f"listing {label}, with {rollouts} rollouts", f"{full[listed]} ms", "≤ 50 ms"
    yield f"memory with {rollouts} rollouts of ten spans", f"{full['server_mb']} MB", "≤ 512 MB"
    yield "size of a span of 4.9 KB on disk", f"{full['bytes_per_span']} bytes", ""


def _tracing(results: dict[str, Any]) -> Iterator[Row]:
    for call, result in results["wire tap, per call"].items():
        share = f"{result['added_us'] / result['bare_us']:.1%} of {result['bare_us'] / 1000:.1f} ms"
        fastest = f"{result['added_in_the_quietest_tenth_us']:.0f} µs in the fastest tenth of the calls"
        target = "≤ 5 %" if "stream" in call else "≤ 300 µs"
        yield (
            f"time that the wire tap adds to a call ({call})",
            f"{result['added_us']:.0f} µs, {share}; {fastest}",
            target,
        )
    end = results["end of a span in the agent's thread"]
    yield "recording the end of a span in the agent's thread, median CPU time", f"{end['cpu_p50_us']} µs", "≤ 20 µs"
    yield "the same, median elapsed time, while spans are being sent", f"{end['p50_us']} µs", ""


def _trainer(results: dict[str, Any]) -> Iterator[Row]:
    for strategy in ("cs", "shm"):
        result = results[strategy]
        yield f"`{strategy}`: rollouts per second", f"{result['rollouts_per_second']}", "≥ 150"
        yield (
            f"`{strategy}`: time from `fit` to the first rollout",
            f"{result['seconds_until_first_rollout_runs']} s",
            "≤ 3",
        )
        alone = result["median_milliseconds_of_a_rollout_alone"]
        yield f"`{strategy}`: one rollout at a time, median time", f"{alone} ms", "≤ 10"
    yield "speed of `shm` relative to `cs`, measured alternately", f"{results['shm_is_so_many_times_as_fast']} ×", "≥ 1"


def _proxy(results: dict[str, Any]) -> Iterator[Row]:
    call = results["milliseconds_a_call"]
    yield "time added to a call that is only forwarded", f"{call['added_when_passed']} ms", ""
    yield "time added to a call that is recorded in a store on disk", f"{call['added_when_recorded']} ms", "≤ 3"
    if within := call.get("added_when_recorded_within"):
        yield "the same, with the store in the proxy's process", f"{within} ms", "≤ 3"
    first = results["milliseconds_to_a_streams_first_byte"]
    yield "time added until the first byte of a stream", f"{first['added_when_recorded']} ms", "≤ 5"
    recorded = results["at_once"]["recorded"]
    yield "recorded calls per second, 32 at a time", f"{recorded['calls_a_second']}", "≥ 300"
    yield "the same, extrapolated to a fully used core", f"{recorded['calls_a_second_of_a_whole_core']}", "≥ 300"
    streams = results["streams_at_once"]
    yield "concurrent streams received completely", f"{streams['recorded']['whole']} of {streams['streams']}", "500"
    memory = results["proxys_memory_MB"]
    after, each = memory["after_each_round"], memory["streams_and_calls_each"]
    yield f"memory after the first of {len(after)} rounds of {each} streams and calls", f"{after[0]} MB", ""
    yield "memory growth in the second half of the rounds", f"{memory['growth_of_the_last_half']} MB", "0"


_EXPORTS = {
    "plain": "without export",
    "to a receiver": "with export to a receiver",
    "to a slow one": "with export to a slow receiver",
    "to an unreachable one": "with export to an unreachable receiver",
}


def _otlp_export(results: dict[str, Any]) -> Iterator[Row]:
    for name, result in results.items():
        if name.startswith("milliseconds_"):
            store = name.removeprefix("milliseconds_").replace("_", " ")
            target = "" if store == "plain" else "as without export"
            yield f"time to store a span, {_EXPORTS[store]}", f"{result['median']} ms, p99 {result['p99']} ms", target


_ACTIONS = {
    "first rows": "showing the first rows",
    "overview": "showing the overview",
    "filter by status": "filtering by status",
    "sort by reward": "sorting by reward",
    "failed first": "sorting failed rollouts first",
    "search": "searching",
    "scroll to the middle": "scrolling to the middle",
    "a rollout with 200 spans, one of 1 MB": "showing a rollout with 200 spans, one of 1 MB",
    "live update": "showing a change in the store",
}


def _dashboard(results: dict[str, Any]) -> Iterator[Row]:
    for action, result in results["seconds"].items():
        yield (
            f"{_ACTIONS.get(action, action)}, with {results['rollouts']:,} rollouts",
            f"{result['median']:.2f} s",
            f"≤ {result['budget']:g} s",
        )
    for view, result in results["core share with 20 open pages"].items():
        yield f"load on the store by 20 open pages, {view}", f"{result['pages']:.1%} of a core", "≤ 5 %"


_HEALTH_TARGETS = {"with a token": 100, "without a token": 250}
"""Maximum 99th percentile of the time of `/health`, in milliseconds."""


def _bombs(results: dict[str, Any]) -> Iterator[Row]:
    for access, target in _HEALTH_TARGETS.items():
        for name, result in results[access].items():
            responses = ", ".join(f"{count} × {status}" for status, count in result["responses"].items())
            health = f"{result['health']['p99_ms']:.0f} ms, before {result['quiet']['health']['p99_ms']:.0f} ms"
            rows = f"store {access}, {name}"
            yield f"{rows}: `/health`, p99", f"{health}; responses {responses}", f"< {target} ms"
            if "share_of_the_rate" in result:
                yield f"{rows}: rate of the runners", f"{result['share_of_the_rate']:.0%}", "≥ 80 %"


_CHANGE_TARGETS = {
    "enqueue_rollout": "≤ 38",
    "enqueue and waiting claim": "≤ 75",
    "runner.step with one model call": "≤ 300",
}


def _structure(results: dict[str, Any]) -> Iterator[Row]:
    code = results["code"]["agentlightning"]
    yield "lines of code in `agentlightning/`", f"{code['lines_of_code']:,} in {code['files']} files", "≤ 16,500"
    yield (
        "median length of a function body",
        f"{code['median_body']:g} lines, in {code['functions']:,} functions",
        "≤ 5",
    )
    yield "longest function body", f"{code['longest_body']} lines", "≤ 60"
    for call, result in results["calls"].items():
        functions = f"{result['functions']} functions in {result['files']} files"
        yield f"changes of file during {call}", f"{result['changes_of_file']}; {functions}", _CHANGE_TARGETS[call]


if __name__ == "__main__":
    PAGE.write_text(page() + "\n")
