"""Cost of the LLM proxy: time added to a call, throughput on one core, streams and memory.

    python -m benchmarks.proxy [--pairs 400] [--streams 500] [--rounds 20]

A model server that responds at once, `agl proxy`, and `agl store` with its database on disk run in their own processes;
the proxy runs on one core. A further `LLMProxy` has its store in its own process. Calls go directly and through the
proxies alternately, so that other load on the machine affects all alike, and the results are differences of medians.
Memory is read after each of several equal rounds of streams and calls. Writes benchmarks/results/proxy.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvicorn

import agentlightning as agl

from .processes import server_options, start_server
from .results import environment, write_result

PROXY_CORE = 0
CHUNKS = 100
CHUNK_INTERVAL = 0.02
CONCURRENCY = 32
WARM_UP_SPANS = 800
"""Spans until the stores' write-ahead logs have their final size: while a file grows, commits take longer."""
SECONDS = 5.0
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue? " * 20}], "temperature": 0.7}
STREAM_REQUEST = {**REQUEST, "stream": True}
SHORT_STREAM_REQUEST = {**STREAM_REQUEST, "max_tokens": 5}

Urls = dict[str, str]
"""URLs of the same call: `direct`, `passed` (through the proxy, without an attempt), `recorded` (through the proxy, for
an attempt), and `recorded_within` (through the proxy with its own store)."""


async def measure(
    urls: Urls, store: agl.LightningStore, proxy: psutil.Process, pairs: int, streams: int, rounds: int
) -> dict[str, Any]:
    """Measure everything in one run."""
    async with store, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = BenchmarkClient(session, urls, store, await _recorded_span(urls, store, session))
        await client.alternate(client.call, 20)  # warm up
        for way in ("stored", "recorded_within"):
            for _ in range(WARM_UP_SPANS):
                await client.call(way)
        calls = await client.alternate(client.call, pairs, "stored")
        first_bytes = await client.alternate(client.first_byte, pairs // 4)
        rates = {name: await client.rate(name, proxy) for name in ("passed", "recorded")}
        return {
            "milliseconds_a_call": _added_times(calls),
            "milliseconds_to_a_streams_first_byte": _added_times(first_bytes),
            "at_once": {"calls": CONCURRENCY, **rates},
            "streams_at_once": await client.many_streams(streams, proxy),
            "proxys_memory_MB": await client.memory(rounds, streams // 2, proxy),
        }


class BenchmarkClient:
    """Makes calls and times them."""

    def __init__(self, session: aiohttp.ClientSession, urls: Urls, store: agl.LightningStore, span: agl.Span) -> None:
        self._session = session
        self._urls = urls
        self._store = store
        self._span = span

    async def alternate(
        self, measure: Callable[[str], Awaitable[float]], times: int, *more: str
    ) -> dict[str, list[float]]:
        """Return seconds for each way, measured one at a time and alternately."""
        seconds: dict[str, list[float]] = {name: [] for name in (*self._urls, *more)}
        for _ in range(times):
            for name in seconds:
                seconds[name].append(await measure(name))
        return seconds

    async def call(self, name: str) -> float:
        """Time a call; `stored` only stores a span like the call's, over HTTP and on disk."""
        if name == "stored":
            span = self._span.model_copy(update={"span_id": os.urandom(8).hex(), "sequence_id": 0})
            started = time.perf_counter()
            await self._store.add_many_spans([span])
            return time.perf_counter() - started
        started = time.perf_counter()
        async with self._session.post(self._urls[name], json=REQUEST) as response:
            await response.read()
            assert response.status == 200, await response.text()
        return time.perf_counter() - started

    async def first_byte(self, name: str) -> float:
        started = time.perf_counter()
        async with self._session.post(self._urls[name], json=SHORT_STREAM_REQUEST) as response:
            await response.content.readany()
            seconds = time.perf_counter() - started
            await response.read()
        return seconds

    async def rate(self, name: str, proxy: psutil.Process) -> dict[str, float]:
        """Measure concurrent calls a second, and the CPU time of each in the proxy."""
        end, done = time.perf_counter() + SECONDS, 0

        async def repeat() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self.call(name)
                done += 1

        before = _cpu_seconds(proxy)
        await asyncio.gather(*(repeat() for _ in range(CONCURRENCY)))
        busy = _cpu_seconds(proxy) - before
        return {
            "calls_a_second": round(done / SECONDS),
            "cpu_milliseconds_a_call": round(1000 * busy / done, 3),
            "calls_a_second_of_a_whole_core": round(done / busy),
        }

    async def many_streams(self, streams: int, proxy: psutil.Process) -> dict[str, Any]:
        """Open all streams at the same time, directly and through the proxy; count those received completely."""
        result: dict[str, Any] = {"streams": streams, "chunks_each": CHUNKS}
        for name in ("direct", "recorded"):
            before = _cpu_seconds(proxy)
            received = await asyncio.gather(*(self._stream(name) for _ in range(streams)))
            result[name] = {
                "whole": sum(complete for complete, _ in received),
                "median_seconds_to_first_byte": round(statistics.median(first for _, first in received), 3),
                "proxys_cpu_seconds": round(_cpu_seconds(proxy) - before, 2),
            }
        return result

    async def memory(self, rounds: int, each: int, proxy: psutil.Process) -> dict[str, Any]:
        """Read the proxy's memory after each of several equal rounds of streams and calls."""
        after: list[float] = []
        for _ in range(rounds):
            await asyncio.gather(*(self._stream("recorded") for _ in range(each)))
            for _ in range(max(1, each // CONCURRENCY)):
                await asyncio.gather(*(self.call("recorded") for _ in range(CONCURRENCY)))
            after.append(round(proxy.memory_info().rss / 1_000_000, 1))
        return {
            "streams_and_calls_each": each,
            "after_each_round": after,
            "growth_of_the_last_half": round(after[-1] - after[(len(after) - 1) // 2], 1),
        }

    async def _stream(self, name: str) -> tuple[bool, float]:
        """Return whether a stream arrived completely, and the seconds until its first byte."""
        started, first, last = time.perf_counter(), 0.0, b""
        async with self._session.post(self._urls[name], json=STREAM_REQUEST) as response:
            async for chunk in response.content.iter_any():
                first = first or time.perf_counter() - started
                last = chunk
        return last.endswith(b"data: [DONE]\n\n"), first


PROXY_WAYS = ("passed", "recorded", "recorded_within")


def _added_times(seconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    tenths = {name: 1000 * sorted(each)[len(each) // 10] for name, each in seconds.items()}
    return {
        "pairs": len(seconds["direct"]),
        **{name: round(median, 2) for name, median in medians.items()},
        **{f"added_when_{name}": round(medians[name] - medians["direct"], 2) for name in PROXY_WAYS},
        # Other load on the machine only makes calls slower, so the fastest tenth is closest to an idle machine.
        "added_at_the_fastest_tenth": {name: round(tenths[name] - tenths["direct"], 2) for name in PROXY_WAYS},
    }


async def _recorded_span(urls: Urls, store: agl.LightningStore, session: aiohttp.ClientSession) -> agl.Span:
    async with session.post(urls["recorded"], json=REQUEST) as response:
        await response.read()
    rollout_id = urls["recorded"].split("/rollout/")[1].split("/")[0]
    return (await store.query_spans(rollout_id))[0]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def model_server(scope: Any, receive: Any, send: Any) -> None:
    """Respond at once; send a stream's chunks at the rate of a fast model."""
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    if scope["method"] == "GET":
        await _send_json(send, {"data": [{"id": "m", "owned_by": "scripted"}]})
    elif b'"stream":' in body:
        await _send_stream(send, int(json.loads(body).get("max_tokens", CHUNKS)))
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Rayleigh. " * 50}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
        await _send_json(send, {"id": os.urandom(8).hex(), "model": "m", "choices": [choice], "usage": usage})


async def _send_json(send: Any, body: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _send_stream(send: Any, chunks: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    head = {"id": os.urandom(8).hex(), "object": "chat.completion.chunk", "model": "m"}
    for _ in range(chunks):
        chunk = {**head, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
        await send({"type": "http.response.body", "body": f"data: {json.dumps(chunk)}\n\n".encode(), "more_body": True})
        await asyncio.sleep(CHUNK_INTERVAL)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def run_model_server() -> None:
    """Run the model server in this process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(model_server, log_config=None, access_log=False, lifespan="off", ws="none")
    uvicorn.Server(config).run([listener])


async def run_proxy_with_store(model: str, database: str) -> None:
    """Run a proxy and its store in this process."""
    async with agl.SqliteLightningStore(database) as store:
        rollout = await store.start_rollout("a task")
        async with agl.LLMProxy(model_list={"m": model}, store=store) as proxy:
            print(proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id).endpoint, flush=True)
            await asyncio.Event().wait()


async def attempt_path(store_url: str) -> str:
    """Start an attempt; return the part of a proxy URL that names it."""
    async with agl.LightningStoreClient(store_url) as store:
        rollout = await store.start_rollout("a task")
        return f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, model = stack.enter_context(start_server("benchmarks.proxy", "model"))
        database = ("--db", str(folder / "agl.db"))
        _, store = stack.enter_context(start_server("agentlightning.cli", "store", *server_options(), *database))
        options = (*server_options(), "--model", f"m={model}", "--store", store)
        proxy, endpoint = stack.enter_context(start_server("agentlightning.cli", "proxy", *options, core=PROXY_CORE))
        recorded = endpoint.replace("/v1", f"{asyncio.run(attempt_path(store))}/v1")
        within = ("within", model, str(folder / "within.db"))
        _, recorded_within = stack.enter_context(start_server("benchmarks.proxy", *within))
        urls = {"direct": model, "passed": endpoint, "recorded": recorded, "recorded_within": recorded_within}
        urls = {name: f"{url}/chat/completions" for name, url in urls.items()}
        before = environment()
        client = agl.LightningStoreClient(store)
        result = asyncio.run(measure(urls, client, proxy, arguments.pairs, arguments.streams, arguments.rounds))
    print(json.dumps(result, indent=2))
    write_result("proxy", {**before, **result})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model"]:
            run_model_server()
        case ["within", model, database]:
            asyncio.run(run_proxy_with_store(model, database))
        case _:
            main()
