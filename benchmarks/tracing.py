"""What tracing costs an agent: LLM calls with and without the wire tap, and the end of a span in the agent's thread.

    python benchmarks/tracing.py            # prints, and writes benchmarks/results/tracing.json

The model is a server in a process of its own. Blocks of bare and traced calls take turns, so that a busy machine is
busy for both. Figures are CPU time of the agent's own thread for a call; of the typical call, and of the quietest tenth
of the calls, which is what a machine with nothing else to do would show.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

sys.path.insert(0, str(Path(__file__).parents[1]))

from agentlightning.store import LightningStore
from agentlightning.tracer import AgentOpsTracer, LightningTracer, OtelTracer, Tracer
from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

RESULTS = Path(__file__).parent / "results" / "tracing.json"
ROUNDS, CALLS, STREAMS, SPANS = 25, 40, 8, 20_000
CHUNKS = 100
MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant. " * 20},
    {"role": "user", "content": "Why is the sky blue? " * 10},
]


class Nowhere(LightningStore):
    """A store that takes everything and keeps nothing."""

    async def add_many_spans(self, spans: Any) -> list[Span]:
        return []


def main() -> None:
    with _model() as url, OpenAI(base_url=url, api_key="none") as client:
        results = {
            "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]},
            "wire tap, per call": _compare(LightningTracer(), url, client),
            "AgentOps and wire tap, per call": _compare(AgentOpsTracer(), url, client),
            "end of a span in the agent's thread": asyncio.run(_ends()),
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def _compare(tracer: Tracer, url: str, client: OpenAI) -> dict[str, Any]:
    def call() -> None:
        client.chat.completions.create(model="words", messages=MESSAGES)

    def stream() -> None:
        for _ in client.chat.completions.create(model="chunks", messages=MESSAGES, stream=True):
            pass

    return {
        "sync": asyncio.run(_alternate(tracer, _blocking(call), CALLS)),
        "async": asyncio.run(_async_calls(tracer, url)),
        f"stream of {CHUNKS} chunks": asyncio.run(_alternate(tracer, _blocking(stream), STREAMS)),
    }


async def _async_calls(tracer: Tracer, url: str) -> dict[str, float]:
    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def call() -> None:
            await client.chat.completions.create(model="words", messages=MESSAGES)

        return await _alternate(tracer, call, CALLS)


async def _alternate(tracer: Tracer, work: Callable[[], Awaitable[None]], times: int) -> dict[str, float]:
    bare: list[float] = []
    traced: list[float] = []
    await _block(work, 5)
    for _ in range(ROUNDS):
        bare += await _block(work, times)
        with tracer.lifespan(Nowhere()):
            async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
                traced += await _block(work, times)
    at_best = [statistics.quantiles(took, n=10)[0] for took in (bare, traced)]
    typical = [statistics.median(took) for took in (bare, traced)]
    return {
        "bare_us": _us(typical[0]),
        "added_us": _us(typical[1] - typical[0]),
        "added_in_the_quietest_tenth_us": _us(at_best[1] - at_best[0]),
    }


async def _block(work: Callable[[], Awaitable[None]], times: int) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        begun = time.thread_time()
        await work()
        took.append(time.thread_time() - begun)
    return took


async def _ends() -> dict[str, float]:
    """Whole spans of an OpenTelemetry library, begun before the clock starts."""
    tracer = OtelTracer()
    took: list[float] = []
    cpu: list[float] = []
    attributes = {f"gen_ai.prompt.{n}.content": "word " * 40 for n in range(20)}
    with tracer.lifespan(Nowhere()):
        async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
            library = tracer.otel_tracer()
            for n in range(SPANS):
                span = library.start_span("step", attributes=attributes)
                begun, worked = time.perf_counter(), time.thread_time()
                span.end()
                cpu.append(time.thread_time() - worked)
                took.append(time.perf_counter() - begun)
                if n % 200 == 0:
                    await tracer.flush()
    took.sort()
    cpu.sort()
    return {
        "cpu_p50_us": _us(cpu[SPANS // 2]),
        "p50_us": _us(took[SPANS // 2]),
        "p99_us": _us(took[SPANS * 99 // 100]),
    }


def _blocking(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def awaited() -> None:
        work()

    return awaited


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)


@contextmanager
def _model() -> Iterator[str]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any) -> None:
    def answer(call: Any) -> Answer:
        return Answer(" ".join(["word"] * (CHUNKS - 3 if call.body["model"] == "chunks" else 100)))

    with ScriptedModel(answer, takes_call=True) as model:
        pipe.send(model.base_url)
        pipe.recv()


if __name__ == "__main__":
    main()
