"""What the proxy adds to a call, how many it carries on one core, and how streams fare.

    python -m benchmarks.proxy [--pairs 400] [--streams 500] [--rounds 20]

A model server that answers at once, `agl proxy`, and `agl store` with its database on disk run as processes of their
own; the proxy is held to one core. Beside them runs an `LLMProxy` that has its store in its own process. Calls go
directly and through the proxies in turn, so that whatever else the machine does falls on all alike, and what is
reported are differences of medians. Memory is looked at after each of several equal rounds of streams and calls.
Writes benchmarks/results/proxy.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvicorn

import agentlightning as agl
from tests.processes import free_port

RESULTS = Path(__file__).parent / "results/proxy.json"
PROXY_CORE = 0
CHUNKS = 100
CHUNK_PAUSE = 0.02
AT_ONCE = 32
UNTIL_STEADY = 800
"""Spans after which the stores' logs are as large as they get: as long as a file grows, its commits take longer."""
SECONDS = 5.0
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue? " * 20}], "temperature": 0.7}
STREAMED = {**ASKED, "stream": True}
STREAMED_SHORT = {**STREAMED, "max_tokens": 5}

Urls = dict[str, str]
"""The same calls' URLs: direct, passed (through the proxy, nobody's), recorded (through it, an attempt's), and recorded
by the proxy that has its store within."""


async def measure(
    urls: Urls, store: agl.LightningStore, proxy: psutil.Process, pairs: int, streams: int, rounds: int
) -> dict[str, Any]:
    """All figures, in one run."""
    async with store, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, urls, store, await _recorded_span(urls, store, session))
        await client.in_turn(client.call, 20)  # everybody is warm
        for way in ("stored", "recorded_within"):
            for _ in range(UNTIL_STEADY):
                await client.call(way)
        figures: dict[str, Any] = {
            "milliseconds_a_call": _compared(await client.in_turn(client.call, pairs, "stored")),
            "milliseconds_to_a_streams_first_byte": _compared(await client.in_turn(client.first_byte, pairs // 4)),
            "at_once": {"calls": AT_ONCE, **{name: await client.rate(name, proxy) for name in ("passed", "recorded")}},
        }
        figures["streams_at_once"] = await client.many_streams(streams, proxy)
        return {**figures, "proxys_memory_MB": await client.memory(rounds, streams // 2, proxy)}


class Client:
    """Makes calls and times them."""

    def __init__(self, session: aiohttp.ClientSession, urls: Urls, store: agl.LightningStore, span: agl.Span) -> None:
        self._session = session
        self._urls = urls
        self._store = store
        self._span = span

    async def in_turn(self, ask: Callable[[str], Awaitable[float]], times: int, *more: str) -> dict[str, list[float]]:
        """So many seconds for each way, one call at a time, the ways in turn."""
        taken: dict[str, list[float]] = {name: [] for name in (*self._urls, *more)}
        for _ in range(times):
            for name in taken:
                taken[name].append(await ask(name))
        return taken

    async def call(self, name: str) -> float:
        if name == "stored":
            return await self._only_store()
        started = time.perf_counter()
        async with self._session.post(self._urls[name], json=ASKED) as response:
            await response.read()
            assert response.status == 200, await response.text()
        return time.perf_counter() - started

    async def _only_store(self) -> float:
        """What the store itself takes for such a span: its way over HTTP, and its commit on disk."""
        span = self._span.model_copy(update={"span_id": os.urandom(8).hex(), "sequence_id": 0})
        started = time.perf_counter()
        await self._store.add_many_spans([span])
        return time.perf_counter() - started

    async def first_byte(self, name: str) -> float:
        started = time.perf_counter()
        async with self._session.post(self._urls[name], json=STREAMED_SHORT) as response:
            await response.content.readany()
            taken = time.perf_counter() - started
            await response.read()
        return taken

    async def rate(self, name: str, proxy: psutil.Process) -> dict[str, float]:
        """How many calls a second with many at once, and what each costs the proxy's core."""
        over, done = time.perf_counter() + SECONDS, 0

        async def often() -> None:
            nonlocal done
            while time.perf_counter() < over:
                await self.call(name)
                done += 1

        before = _cpu_seconds(proxy)
        await asyncio.gather(*(often() for _ in range(AT_ONCE)))
        busy = _cpu_seconds(proxy) - before
        return {
            "calls_a_second": round(done / SECONDS),
            "cpu_milliseconds_a_call": round(1000 * busy / done, 3),
            "calls_a_second_of_a_whole_core": round(done / busy),
        }

    async def many_streams(self, streams: int, proxy: psutil.Process) -> dict[str, Any]:
        """All streams at once, directly and through the proxy: how many arrive whole, and when they begin."""
        result: dict[str, Any] = {"streams": streams, "chunks_each": CHUNKS}
        for name in ("direct", "recorded"):
            before = _cpu_seconds(proxy)
            seen = await asyncio.gather(*(self._stream(name) for _ in range(streams)))
            result[name] = {
                "whole": sum(whole for whole, _ in seen),
                "median_seconds_to_first_byte": round(statistics.median(first for _, first in seen), 3),
                "proxys_cpu_seconds": round(_cpu_seconds(proxy) - before, 2),
            }
        return result

    async def memory(self, rounds: int, each: int, proxy: psutil.Process) -> dict[str, Any]:
        """What the proxy holds after each of so many equal rounds, of as many streams at once and then calls."""
        after: list[float] = []
        for _ in range(rounds):
            await asyncio.gather(*(self._stream("recorded") for _ in range(each)))
            for _ in range(max(1, each // AT_ONCE)):
                await asyncio.gather(*(self.call("recorded") for _ in range(AT_ONCE)))
            after.append(_memory(proxy))
        return {
            "streams_and_calls_each": each,
            "after_each_round": after,
            "growth_of_the_last_half": round(after[-1] - after[(len(after) - 1) // 2], 1),
        }

    async def _stream(self, name: str) -> tuple[bool, float]:
        started, first, last = time.perf_counter(), 0.0, b""
        async with self._session.post(self._urls[name], json=STREAMED) as response:
            async for chunk in response.content.iter_any():
                first = first or time.perf_counter() - started
                last = chunk
        return last.endswith(b"data: [DONE]\n\n"), first


def _compared(taken: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: 1000 * statistics.median(seconds) for name, seconds in taken.items()}
    tenths = {name: 1000 * sorted(seconds)[len(seconds) // 10] for name, seconds in taken.items()}
    return {
        "pairs": len(taken["direct"]),
        **{name: round(median, 2) for name, median in medians.items()},
        **{f"added_when_{name}": round(medians[name] - medians["direct"], 2) for name in _THROUGH},
        # What others do on the machine only ever makes a call slower.
        "added_at_the_fastest_tenth": {name: round(tenths[name] - tenths["direct"], 2) for name in _THROUGH},
    }


_THROUGH = ("passed", "recorded", "recorded_within")


async def _recorded_span(urls: Urls, store: agl.LightningStore, session: aiohttp.ClientSession) -> agl.Span:
    async with session.post(urls["recorded"], json=ASKED) as response:
        await response.read()
    rollout_id = urls["recorded"].split("/rollout/")[1].split("/")[0]
    return (await store.query_spans(rollout_id))[0]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _memory(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 1_000_000, 1)


# The model server


async def model_server(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once; a stream's chunks come at the pace of a fast model."""
    message = await receive()
    asked = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        asked += message.get("body", b"")
    if scope["method"] == "GET":
        await _whole(send, {"data": [{"id": "m", "owned_by": "scripted"}]})
    elif b'"stream":' in asked:
        await _streamed(send, int(json.loads(asked).get("max_tokens", CHUNKS)))
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Rayleigh. " * 50}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
        await _whole(send, {"id": os.urandom(8).hex(), "model": "m", "choices": [choice], "usage": usage})


async def _whole(send: Any, body: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _streamed(send: Any, chunks: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    head = {"id": os.urandom(8).hex(), "object": "chat.completion.chunk", "model": "m"}
    for _ in range(chunks):
        chunk = {**head, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
        await send({"type": "http.response.body", "body": f"data: {json.dumps(chunk)}\n\n".encode(), "more_body": True})
        await asyncio.sleep(CHUNK_PAUSE)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def serve_model() -> None:
    """This process is the model server."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(model_server, log_config=None, access_log=False, lifespan="off", ws="none")
    uvicorn.Server(config).run([listening])


# The proxy that has its store within


async def serve_proxy(model: str, database: str) -> None:
    """This process is a proxy and its store."""
    async with agl.SqliteLightningStore(database) as store:
        attempted = await store.start_rollout("a task")
        async with agl.LLMProxy(model_list={"m": model}, store=store) as proxy:
            print(proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint, flush=True)
            await asyncio.Event().wait()


# All of it


@contextmanager
def running(*command: str, core: int | None = None) -> Iterator[tuple[psutil.Process, str]]:
    """A process and the URL it prints first; held to one core where that is given."""

    def hold() -> None:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})

    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, preexec_fn=hold)
    try:
        assert process.stdout is not None
        found = re.search(r"http://[^\s,;]+", process.stdout.readline())
        assert found, f"{command} did not say where it is"
        yield psutil.Process(process.pid), found[0]
    finally:
        process.terminate()
        process.communicate()


def at_a_free_port() -> tuple[str, ...]:
    """Options for a server; the port is free now."""
    return "--port", str(free_port()), "--log-level", "warning"


async def an_attempt(store_url: str) -> str:
    """The part of a URL that names a new attempt."""
    async with agl.LightningStoreClient(store_url) as store:
        attempted = await store.start_rollout("a task")
        return f"/rollout/{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}"


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=400)
    options.add_argument("--streams", type=int, default=500)
    options.add_argument("--rounds", type=int, default=20)
    given = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = folder / "agl.db"
        _, model = stack.enter_context(running("benchmarks.proxy", "model"))
        _, store = stack.enter_context(running("agentlightning.cli", "store", *at_a_free_port(), "--db", str(database)))
        command = ("agentlightning.cli", "proxy", *at_a_free_port(), "--model", f"m={model}", "--store", store)
        proxy, endpoint = stack.enter_context(running(*command, core=PROXY_CORE))
        own = endpoint.replace("/v1", f"{asyncio.run(an_attempt(store))}/v1")
        within = ("benchmarks.proxy", "within", model, str(folder / "within.db"))
        _, there = stack.enter_context(running(*within))
        urls = {"direct": model, "passed": endpoint, "recorded": own, "recorded_within": there}
        urls = {name: f"{url}/chat/completions" for name, url in urls.items()}
        load = os.getloadavg()
        figures = asyncio.run(
            measure(urls, agl.LightningStoreClient(store), proxy, given.pairs, given.streams, given.rounds)
        )
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": [round(one, 1) for one in load]}
    result = {"machine": machine, **figures}
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model"]:
            serve_model()
        case ["within", model, database]:
            asyncio.run(serve_proxy(model, database))
        case _:
            main()
