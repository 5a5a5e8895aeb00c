"""Whether sending spans on makes the store slower to acknowledge them.

    python -m benchmarks.otlp_export [--pairs 700]

Four stores with their databases on disk are processes of their own: a plain one, and three that send every span on, to
a receiver that takes it, to one that takes seconds over each request, and to one that is away. Spans the size of a
model call's are stored one by one, in the stores in turn and each time in another order, so that whatever else the
machine does falls on all alike. Writes benchmarks/results/otlp_export.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
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
from benchmarks.proxy import at_a_free_port, running
from tests.otlp_receiver import Receiver, taken
from tests.processes import free_port

RESULTS = Path(__file__).parent / "results/otlp_export.json"
PLAIN = "plain"
SLOW_SECONDS = 3.0
LIKE_A_CALL = {
    **{f"gen_ai.prompt.{number}.content": "x" * 80 for number in range(15)},
    "agentlightning.request": "y" * 1_500,
    "agentlightning.response": "z" * 1_500,
}


async def measure(urls: dict[str, str], pairs: int) -> dict[str, Any]:
    """What an acknowledgement takes at each store, and how far the receiver has come meanwhile."""
    taken: dict[str, list[float]] = {name: [] for name in urls}
    stores = {name: agl.LightningStoreClient(url) for name, url in urls.items()}
    attempts = {name: await store.start_rollout("a task") for name, store in stores.items()}
    names = list(stores)
    for _ in range(pairs):
        for name in random.sample(names, len(names)):
            span = _span(attempts[name])
            started = time.perf_counter()
            await stores[name].add_many_spans([span])
            taken[name].append(time.perf_counter() - started)
    waiting = {name: await _waiting(urls[name]) for name in names if name != PLAIN}
    for store in stores.values():
        await store.close()
    figures = {f"milliseconds_{name}": _quantiles(seconds) for name, seconds in sorted(taken.items())}
    return {"pairs": pairs, **figures, "spans_waiting_at_the_end": waiting}


def _span(attempted: Any) -> agl.Span:
    ids = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
    return agl.Span(
        **ids, trace_id="ab" * 16, span_id=os.urandom(8).hex(), name="openai.chat.completion", attributes=LIKE_A_CALL
    )


async def _waiting(store: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{store}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("agl_export_waiting_spans{"))


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {name: round(1000 * ordered[int(len(ordered) * at)], 2) for name, at in _QUANTILES.items()}


_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


def receive(seconds: float) -> None:
    """This process is a receiver that takes so many seconds over each request."""

    def rule(spans: list[Any]) -> tuple[int, bytes]:
        time.sleep(seconds)
        return taken()

    with Receiver(rule) as receiver:
        print(receiver.url, flush=True)
        threading.Event().wait()


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=700)
    given = options.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        targets = {
            f"to_{which}": stack.enter_context(running("benchmarks.otlp_export", "receiver", str(seconds)))[1]
            for which, seconds in {"a_receiver": 0.0, "a_slow_one": SLOW_SECONDS}.items()
        }
        targets["to_one_that_is_away"] = f"http://127.0.0.1:{free_port()}"
        more = {PLAIN: (), **{name: ("--export-otlp", target) for name, target in targets.items()}}
        urls = {
            name: stack.enter_context(
                running(
                    "agentlightning.cli", "store", *at_a_free_port(), "--db", str(Path(folder) / f"{name}.db"), *options
                )
            )[1]
            for name, options in more.items()
        }
        figures = asyncio.run(measure(urls, given.pairs))
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": [round(one, 1) for one in load]}
    result = {"machine": machine, **figures}
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    receive(float(sys.argv[2])) if sys.argv[1:2] == ["receiver"] else main()
