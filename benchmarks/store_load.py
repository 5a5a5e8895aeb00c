"""One load on a store, in its own process: `python store_load.py URL LOAD [key=value …]`.

Uses only the public client API, so that any Python environment with `agentlightning` can run this file. Prints one JSON
object: the amount of work, its times, and the CPU time of this process.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import agentlightning as agl

WARM_UP_SECONDS = 1.0


class Load:
    """Concurrent workers that repeat a unit of work; only units that end within the measured time are counted."""

    def __init__(self, url: str, seconds: float) -> None:
        self.client: Any = agl.LightningStoreClient(url)
        self.seconds = seconds
        self.counting = False
        self.done = 0
        self.times: list[float] = []

    async def run(self, workers: list[Callable[[], Awaitable[None]]]) -> dict[str, Any]:
        """Repeat each worker until the time has passed."""
        stop = asyncio.Event()

        async def repeat(work: Callable[[], Awaitable[None]]) -> None:
            while not stop.is_set():
                started = time.perf_counter()
                await work()
                if self.counting:
                    self.done += 1
                    self.times.append(time.perf_counter() - started)

        tasks = [asyncio.create_task(repeat(work)) for work in workers]
        await asyncio.sleep(WARM_UP_SECONDS)
        print("counting", flush=True)
        cpu, started, self.counting = cpu_seconds(), time.perf_counter(), True
        await asyncio.sleep(self.seconds)
        self.counting = False
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
        print("counted", flush=True)
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {
            "done": self.done,
            "per_second": round(self.done / seconds, 1),
            "client_cpu_ms": round(1000 * cpu / max(1, self.done), 3),
            **percentiles(self.times),
        }


async def lifecycle(load: Load, runners: int, spans: int) -> dict[str, Any]:
    """Let each runner enqueue a rollout, claim it, add its spans in one call, and report."""

    def runner(number: int) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await load.client.enqueue_rollout({"task": number})
            await execute_rollout(load, f"runner-{number}", spans)

        return work

    return await load.run([runner(number) for number in range(runners)])


async def queue(load: Load, runners: int, spans: int) -> dict[str, Any]:
    """Let a producer fill the queue in batches, and runners claim, add spans and report."""
    ahead = asyncio.Semaphore(4 * runners)

    def runner(number: int) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await execute_rollout(load, f"runner-{number}", spans)
            ahead.release()

        return work

    async def produce() -> None:
        while True:
            for _ in range(runners):
                await ahead.acquire()
            await enqueue_many(load.client, runners)

    producer = asyncio.create_task(produce())
    result = await load.run([runner(number) for number in range(runners)])
    producer.cancel()
    return result


async def execute_rollout(load: Load, worker_id: str, spans: int) -> None:
    while (attempted := await load.client.dequeue_rollout(worker_id=worker_id)) is None:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    rollout_id, attempt_id = attempted.rollout_id, attempted.attempt.attempt_id
    new_spans = [span(rollout_id, attempt_id, n + 1) for n in range(spans)]
    if hasattr(load.client, "add_many_spans"):  # releases before 1.0 lack it
        await load.client.add_many_spans(new_spans)
    else:
        for each in new_spans:
            await load.client.add_span(each)
    await load.client.update_attempt(rollout_id, attempt_id, status="succeeded")


async def calls(load: Load, operation: str, concurrency: int) -> dict[str, Any]:
    """Repeat one operation concurrently."""
    client = load.client
    attempted = await client.start_rollout({"task": "known"})
    rollout_id, attempt_id = attempted.rollout_id, attempted.attempt.attempt_id

    async def add_span() -> None:
        await client.add_span(span(rollout_id, attempt_id, random.getrandbits(40)))

    async def heartbeat() -> None:
        await client.update_worker(f"worker-{random.randrange(100)}")

    works: dict[str, Callable[[], Awaitable[Any]]] = {
        "enqueue_rollout": lambda: client.enqueue_rollout({"task": 1}),
        "get_rollout_by_id": lambda: client.get_rollout_by_id(rollout_id),
        "get_latest_attempt": lambda: client.get_latest_attempt(rollout_id),
        "query_rollouts": lambda: client.query_rollouts(limit=20),
        "add_span": add_span,
        "update_worker": heartbeat,
    }
    return await load.run([works[operation]] * concurrency)


async def wake(load: Load, waiting: int, tries: int) -> dict[str, Any]:
    """Time from an enqueue call until a waiting runner has the rollout."""
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def runner(number: int) -> None:
        while True:
            if await load.client.dequeue_rollout(worker_id=f"runner-{number}", wait=20) is not None:
                arrived.put_nowait(time.perf_counter())

    tasks = [asyncio.create_task(runner(number)) for number in range(waiting)]
    await asyncio.sleep(WARM_UP_SECONDS)
    times: list[float] = []
    for _ in range(tries):
        started = time.perf_counter()
        await load.client.enqueue_rollout({"task": "wake"})
        times.append(await arrived.get() - started)
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return percentiles(times)


async def fill(load: Load, rollouts: int, spans: int) -> dict[str, Any]:
    """Add finished rollouts."""
    batch, created = 100, 0
    while created < rollouts:
        await enqueue_many(load.client, batch)
        await asyncio.gather(*(execute_rollout(load, f"runner-{n}", spans) for n in range(batch)))
        created += batch
    return {"created": created}


async def single_calls(load: Load, tries: int) -> dict[str, Any]:
    """Median times of the calls of a life cycle and of the first page of each list, one at a time, in milliseconds."""
    client, times = load.client, dict[str, list[float]]()

    async def timed(name: str, call: Awaitable[Any]) -> Any:
        started = time.perf_counter()
        result = await call
        times.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(tries):
        await timed("enqueue", client.enqueue_rollout({"task": "one"}))
        attempted = await timed("claim", client.dequeue_rollout(worker_id="one"))
        rollout_id, attempt_id = attempted.rollout_id, attempted.attempt.attempt_id
        await timed("add", client.add_span(span(rollout_id, attempt_id, 1)))
        await timed("finish", client.update_attempt(rollout_id, attempt_id, status="succeeded"))
        await timed("rollout", client.get_rollout_by_id(rollout_id))
        await timed("spans", client.query_spans(rollout_id))
        await timed("page", client.query_rollouts(limit=50))
        await timed("page newest", client.query_rollouts(limit=50, sort_by="start_time", sort_order="desc"))
        await timed("page failed", client.query_rollouts(status_in=["failed"], limit=50))
        await timed("workers", client.query_workers(limit=50))
    return {name: round(1000 * statistics.median(each), 2) for name, each in times.items()}


async def enqueue_many(client: Any, many: int) -> None:
    if hasattr(client, "enqueue_many_rollouts"):
        await client.enqueue_many_rollouts([agl.EnqueueRolloutRequest(input={"task": n}) for n in range(many)])
    else:
        await asyncio.gather(*(client.enqueue_rollout({"task": n}) for n in range(many)))


def span(rollout_id: str, attempt_id: str, number: int) -> Any:
    """Return a span with 30 attributes and 4.9 KB of JSON, the size of a model call with a longer chat."""
    now = time.time()
    return agl.Span(
        **_DEFAULTS,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=number if number < 10_000 else 1,
        trace_id=uuid.uuid4().hex,
        span_id=uuid.uuid4().hex[:16],
        name="openai.chat.completion",
        attributes=_ATTRIBUTES,
        start_time=now,
        end_time=now,
    )


_DEFAULTS: dict[str, Any] = {
    "parent_id": None,
    "status": {"status_code": "OK", "description": None},
    "events": [],
    "links": [],
    "context": None,
    "parent": None,
    "resource": {"attributes": {}, "schema_url": ""},
}
_ATTRIBUTES: dict[str, Any] = {
    **{f"gen_ai.prompt.{n}.content": "What is the capital of France, and why? " * 12 for n in range(8)},
    **{f"gen_ai.prompt.{n}.role": "user" for n in range(8)},
    **{f"gen_ai.usage.{name}": 123 for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    **{f"step.{n}": n * 1.5 for n in range(11)},
}


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the median and two upper percentiles, in milliseconds."""
    if not times:
        return {}
    ordered = sorted(times)
    return {
        f"{name}_ms": round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * at))], 2)
        for name, at in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(url: str, name: str, options: dict[str, str]) -> None:
    load = Load(url, float(options.pop("seconds", 5)))
    loads: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        each.__name__: each for each in (lifecycle, queue, calls, wake, fill, single_calls)
    }
    numbers = {key: value if key == "operation" else int(value) for key, value in options.items()}
    result = await loads[name](load, **numbers)
    await load.client.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _, url, name, *rest = sys.argv
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    run(main(url, name, dict(each.split("=", 1) for each in rest)))
