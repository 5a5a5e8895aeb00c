"""Cost of OTLP export: the time in which a store acknowledges spans, with and without sending them on.

    python -m benchmarks.otlp_export [--pairs 700]

Four stores with databases on disk run in their own processes: one without export, and three that export to a receiver,
to a receiver that takes seconds for each request, and to an unreachable one. Spans the size of a model call's are
stored one by one, in the four stores in random order, so that other load on the machine affects all alike. Writes
benchmarks/results/otlp_export.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

import agentlightning as agl
from tests.otlp_receiver import Receiver, accepted
from tests.processes import free_port

from .processes import server_options, start_server
from .results import environment, write_result

PLAIN = "plain"
SLOW_SECONDS = 3.0
ATTRIBUTES = {
    **{f"gen_ai.prompt.{number}.content": "x" * 80 for number in range(15)},
    "agentlightning.request": "y" * 1_500,
    "agentlightning.response": "z" * 1_500,
}
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


async def measure(urls: dict[str, str], pairs: int) -> dict[str, Any]:
    """Time the acknowledgements of each store, and count the spans not yet exported at the end."""
    seconds: dict[str, list[float]] = {name: [] for name in urls}
    stores = {name: agl.LightningStoreClient(url) for name, url in urls.items()}
    attempts = {name: await store.start_rollout("a task") for name, store in stores.items()}
    for _ in range(pairs):
        for name in random.sample(list(stores), len(stores)):
            span = _span(attempts[name])
            started = time.perf_counter()
            await stores[name].add_many_spans([span])
            seconds[name].append(time.perf_counter() - started)
    waiting = {name: await _waiting_spans(urls[name]) for name in stores if name != PLAIN}
    for store in stores.values():
        await store.close()
    quantiles = {f"milliseconds_{name}": _quantiles(each) for name, each in sorted(seconds.items())}
    return {"pairs": pairs, **quantiles, "spans_waiting_at_the_end": waiting}


def _span(rollout: agl.AttemptedRollout) -> agl.Span:
    return agl.Span(
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        trace_id="ab" * 16,
        span_id=os.urandom(8).hex(),
        name="openai.chat.completion",
        attributes=ATTRIBUTES,
    )


async def _waiting_spans(store: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{store}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("agl_export_waiting_spans{"))


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {name: round(1000 * ordered[int(len(ordered) * at)], 2) for name, at in QUANTILES.items()}


def run_receiver(seconds: float) -> None:
    """Run a receiver in this process that takes `seconds` for each request."""

    def rule(spans: list[Any]) -> tuple[int, bytes]:
        time.sleep(seconds)
        return accepted()

    with Receiver(rule) as receiver:
        print(receiver.url, flush=True)
        threading.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=700)
    arguments = parser.parse_args()
    before = environment()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        targets = {
            name: stack.enter_context(start_server("benchmarks.otlp_export", "receiver", str(seconds)))[1]
            for name, seconds in {"to_a_receiver": 0.0, "to_a_slow_one": SLOW_SECONDS}.items()
        }
        targets["to_an_unreachable_one"] = f"http://127.0.0.1:{free_port()}"
        options = {PLAIN: (), **{name: ("--export-otlp", target) for name, target in targets.items()}}
        urls = {
            name: stack.enter_context(
                start_server(
                    "agentlightning.cli", "store", *server_options(), "--db", str(Path(folder) / f"{name}.db"), *more
                )
            )[1]
            for name, more in options.items()
        }
        result = asyncio.run(measure(urls, arguments.pairs))
    print(json.dumps(result, indent=2))
    write_result("otlp_export", {**before, **result})


if __name__ == "__main__":
    run_receiver(float(sys.argv[2])) if sys.argv[1:2] == ["receiver"] else main()
