"""Cost of tracing in an agent: model calls with and without the wire tap, and the end of a span.

    python -m benchmarks.tracing

The model is a server in its own process. Blocks of plain and traced calls alternate, so that other load on the machine
affects both. Figures are CPU time of the agent's own thread for each call: the median, and the fastest tenth, which
shows the cost on an idle machine. Writes benchmarks/results/tracing.json.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI

from agentlightning.store import LightningStore
from agentlightning.tracer import AgentOpsTracer, LightningTracer, OtelTracer, Tracer
from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

from .results import write_result

ROUNDS, CALLS, STREAMS, SPANS = 25, 40, 8, 20_000
CHUNKS = 100
MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant. " * 20},
    {"role": "user", "content": "Why is the sky blue? " * 10},
]


class DiscardingStore(LightningStore):
    """A store that accepts spans and keeps none."""

    async def add_many_spans(self, spans: Any) -> list[Span]:
        return []


def main() -> None:
    with _model_server() as url, OpenAI(base_url=url, api_key="none") as client:
        result = {
            "wire tap, per call": _compare(LightningTracer(), url, client),
            "AgentOps and wire tap, per call": _compare(AgentOpsTracer(), url, client),
            "end of a span in the agent's thread": asyncio.run(_measure_span_ends()),
        }
    print(json.dumps(result, indent=2))
    write_result("tracing", result)


def _compare(tracer: Tracer, url: str, client: OpenAI) -> dict[str, Any]:
    async def call() -> None:
        client.chat.completions.create(model="words", messages=MESSAGES)

    async def stream() -> None:
        for _ in client.chat.completions.create(model="chunks", messages=MESSAGES, stream=True):
            pass

    return {
        "sync": asyncio.run(_alternate(tracer, call, CALLS)),
        "async": asyncio.run(_compare_async_calls(tracer, url)),
        f"stream of {CHUNKS} chunks": asyncio.run(_alternate(tracer, stream, STREAMS)),
    }


async def _compare_async_calls(tracer: Tracer, url: str) -> dict[str, float]:
    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def call() -> None:
            await client.chat.completions.create(model="words", messages=MESSAGES)

        return await _alternate(tracer, call, CALLS)


async def _alternate(tracer: Tracer, call: Callable[[], Awaitable[None]], times: int) -> dict[str, float]:
    plain: list[float] = []
    traced: list[float] = []
    await _cpu_times(call, 5)  # warm up
    for _ in range(ROUNDS):
        plain += await _cpu_times(call, times)
        with tracer.lifespan(DiscardingStore()):
            async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
                traced += await _cpu_times(call, times)
    fastest_tenths = [statistics.quantiles(seconds, n=10)[0] for seconds in (plain, traced)]
    medians = [statistics.median(seconds) for seconds in (plain, traced)]
    return {
        "bare_us": _microseconds(medians[0]),
        "added_us": _microseconds(medians[1] - medians[0]),
        "added_in_the_quietest_tenth_us": _microseconds(fastest_tenths[1] - fastest_tenths[0]),
    }


async def _cpu_times(call: Callable[[], Awaitable[None]], times: int) -> list[float]:
    seconds: list[float] = []
    for _ in range(times):
        started = time.thread_time()
        await call()
        seconds.append(time.thread_time() - started)
    return seconds


async def _measure_span_ends() -> dict[str, float]:
    """Time the `end` of spans of an OpenTelemetry library."""
    tracer = OtelTracer()
    wall: list[float] = []
    cpu: list[float] = []
    attributes = {f"gen_ai.prompt.{n}.content": "word " * 40 for n in range(20)}
    with tracer.lifespan(DiscardingStore()):
        async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
            library = tracer.otel_tracer()
            for n in range(SPANS):
                span = library.start_span("step", attributes=attributes)
                wall_start, cpu_start = time.perf_counter(), time.thread_time()
                span.end()
                cpu.append(time.thread_time() - cpu_start)
                wall.append(time.perf_counter() - wall_start)
                if n % 200 == 0:
                    await tracer.flush()
    wall.sort()
    return {
        "cpu_p50_us": _microseconds(statistics.median(cpu)),
        "p50_us": _microseconds(wall[SPANS // 2]),
        "p99_us": _microseconds(wall[SPANS * 99 // 100]),
    }


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)


@contextmanager
def _model_server() -> Iterator[str]:
    spawn = multiprocessing.get_context("spawn")
    parent, child = spawn.Pipe()
    process = spawn.Process(target=_serve_model, args=(child,), daemon=True)
    process.start()
    try:
        yield parent.recv()
    finally:
        process.terminate()
        process.join()


def _serve_model(pipe: Any) -> None:
    def answer(call: Any) -> Answer:
        return Answer(" ".join(["word"] * (CHUNKS - 3 if call.body["model"] == "chunks" else 100)))

    with ScriptedModel(answer, takes_call=True) as model:
        pipe.send(model.base_url)
        pipe.recv()


if __name__ == "__main__":
    main()
