"""Small requests that once cost a store seconds or gigabytes, while others use the store.

    python -m benchmarks.bombs --seconds 10

Each of them arrives ten times a second from a separate process, without a token. If the store requires a token, 32
runners that have it use the store meanwhile; the same runners without these requests are the comparison. `/health` is
called all the time. `python -m benchmarks.bombs send …` is the separate process.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

import agentlightning as agl
from agentlightning.semconv import ATTEMPT_ID, ROLLOUT_ID
from tests.store.test_otlp_limits import message

from .processes import server_options, start_server
from .results import environment, write_result
from .store_load import percentiles

TOKEN = "agl-admin-" + "benchmark" * 5
RUNNERS, SPANS = 32, 6
INTERVAL = 0.1
"""Seconds between two requests of one kind."""
HEALTH_INTERVAL = 0.02
RESPONSE_TIMEOUT = 60.0
PROTOBUF, JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True)
class Bomb:
    """A request."""

    path: str
    body: bytes = b""
    content_type: str = JSON
    gzipped: bool = False
    headers: bytes = b""
    method: str = "POST"

    def encode(self, host: str) -> bytes:
        """Return the bytes of the request."""
        body = gzip.compress(self.body) if self.gzipped else self.body
        encoding = "Content-Encoding: gzip\r\n" if self.gzipped else ""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {self.content_type}\r\n{encoding}"
        return head.encode() + self.headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bombs(rollout_id: str, attempt_id: str) -> dict[str, Bomb]:
    """Return the requests. If the store requires no token, their spans belong to the attempt."""
    labels = {ROLLOUT_ID: rollout_id, ATTEMPT_ID: attempt_id}
    resource = Resource()
    for key, value in labels.items():
        resource.attributes.add(key=key).value.string_value = value
    ids = message(0x0A, b"t" * 16) + message(0x12, b"s" * 8)

    def request(spans: bytes) -> bytes:
        return message(0x0A, message(0x0A, resource.SerializeToString()) + message(0x12, spans))

    def span(attributes: str) -> bytes:
        times = f'"start_time":1,"end_time":2,"trace_id":"{"7" * 32}","span_id":"{"7" * 16}"'
        own = f'"rollout_id":"{rollout_id}","attempt_id":"{attempt_id}","name":"bomb","attributes":{attributes}'
        return f'{{"span":{{{times},{own},"status":{{"status_code":"OK"}}}}}}'.encode()

    def nested(depth: int) -> str:
        return '{"a":' * depth + "1" + "}" * depth

    return {
        "body before the token is checked": Bomb(
            "/v1/traces",
            request(message(0x12, ids) * 500),
            PROTOBUF,
            headers=b"Authorization: Bearer agl-attempt-x\r\n",
        ),
        "'-sk-' repeated, 128 KB": Bomb("/add_span", span(json.dumps({"text": "-sk-" * 32_768}))),
        "10 million empty spans": Bomb("/v1/traces", request(b"\x12\x00" * 9_900_000), PROTOBUF, gzipped=True),
        "500,000 minimal spans": Bomb("/v1/traces", request(message(0x12, ids) * 500_000), PROTOBUF, gzipped=True),
        "millions of JSON lists": Bomb("/v1/traces", b"[" + b"[]," * 6_000_000 + b"[]]", JSON, gzipped=True),
        "gzip of 200,000 empty members": Bomb(
            "/v1/traces", gzip.compress(b"") * 200_000, PROTOBUF, headers=b"Content-Encoding: gzip\r\n"
        ),
        "depth 1,500 in a batch": Bomb(
            "/batch",
            b'{"operations":[{"operation":"enqueue_rollout","arguments":{"input":%s}}]}' % nested(1_500).encode(),
        ),
        "depth 1,000 behind a duplicate key": Bomb("/add_span", span(f'{{"m":{{"a":{nested(1_000)},"a":1}}}}')),
        "control characters in a path": Bomb("/x%0d%0a2026-01-01%20[ERROR]%20FORGED%1b]0;p%07", method="GET"),
        "70 KB of headers": Bomb("/health", headers=b"X-Long: %s\r\n" % (b"x" * 70_000), method="GET"),
        "10,000 headers": Bomb("/health", headers=b"X: y\r\n" * 10_000, method="GET"),
    }


async def send_repeatedly(url: str, request: bytes, seconds: float) -> dict[str, Any]:
    """Send a request ten times a second, each on a connection of its own, and wait for all responses."""
    statuses, times = Counter[str](), list[float]()

    async def send() -> None:
        started = time.perf_counter()
        statuses[await _status(url, request)] += 1
        times.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(round(seconds / INTERVAL)):
            group.create_task(send())
            await asyncio.sleep(INTERVAL)
    return {"responses": dict(statuses), "slowest_response_ms": round(1000 * max(times))}


async def _status(url: str, request: bytes) -> str:
    address = urlsplit(url)
    try:
        async with asyncio.timeout(RESPONSE_TIMEOUT):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(request)
                return (await reader.readline()).decode().split(" ")[1]
            finally:
                writer.close()
    except (OSError, IndexError, TimeoutError) as error:
        return type(error).__name__


async def measure(url: str, token: str | None, seconds: float, chosen: str) -> dict[str, Any]:
    """Measure a quiet store, then each bomb, and the rate of the runners if the store requires a token."""
    async with agl.LightningStoreClient(url, token=token) as store:
        attempted = await store.start_rollout("bombs")
    results: dict[str, Any] = {}
    for name in bombs("", ""):
        if chosen not in name:
            continue
        quiet = await _measure_health(url, seconds, token)
        ids = attempted.rollout_id, attempted.attempt.attempt_id
        loaded = await _measure_health(url, seconds, token, "send", url, name, str(seconds), *ids)
        if token:
            loaded["share_of_the_rate"] = round(loaded["rollouts_per_second"] / quiet["rollouts_per_second"], 3)
        results[name] = {"quiet": quiet, **loaded}
        print(name, json.dumps(results[name]), flush=True)
    return results


async def _measure_health(url: str, seconds: float, token: str | None, *bomb: str) -> dict[str, Any]:
    """Call `/health` all the time, while the runners use the store and the bomb arrives."""
    runners = f"benchmarks/store_load.py {url} lifecycle runners={RUNNERS} spans={SPANS} seconds={seconds}".split()
    async with _health_times(url) as times:
        programs = [_run(*runners, token=token)] if token else []
        programs += [_run("-m", "benchmarks.bombs", *bomb)] if bomb else []
        outputs = await asyncio.gather(*programs)
        if not programs:
            await asyncio.sleep(seconds)
    merged: dict[str, Any] = {key: value for output in outputs for key, value in output.items()}
    rate = {"rollouts_per_second": merged["per_second"]} if token else {}
    sent = {key: merged[key] for key in ("responses", "slowest_response_ms") if key in merged}
    return {"health": percentiles(times), **rate, **sent}


@asynccontextmanager
async def _health_times(url: str) -> AsyncGenerator[list[float]]:
    times: list[float] = []

    async def call(session: aiohttp.ClientSession) -> None:
        while True:
            started = time.perf_counter()
            async with session.get(f"{url}/health") as response:
                assert response.status == 200
            times.append(time.perf_counter() - started)
            await asyncio.sleep(HEALTH_INTERVAL)

    async with aiohttp.ClientSession() as session:
        calls = asyncio.create_task(call(session))
        try:
            yield times
        finally:
            calls.cancel()
            await asyncio.wait({calls})
    if not calls.cancelled():
        calls.result()


async def _run(*command: str, token: str | None = None) -> dict[str, Any]:
    """Run a Python program; return the JSON that it prints last."""
    variables = {name: value for name, value in os.environ.items() if name != "AGL_TOKEN"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        env=variables | ({"AGL_TOKEN": token} if token else {}),
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement (default: 10)")
    parser.add_argument("--only", default="", help="only the requests whose name contains this text")
    parser.add_argument("--dry", action="store_true", help="do not write the result")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**environment(), "seconds": arguments.seconds, "requests_per_second": round(1 / INTERVAL)}
    for name, token in (("with a token", TOKEN), ("without a token", None)):
        with tempfile.TemporaryDirectory() as folder:
            options = (*server_options(), "--db", str(Path(folder) / "agl.db"), *(("--token", token) if token else ()))
            with start_server("agentlightning.cli", "store", *options) as (_, url):
                result[name] = asyncio.run(measure(url, token, arguments.seconds, arguments.only))
    if not arguments.dry:
        write_result("bombs", result)


def send(url: str, name: str, seconds: float, rollout_id: str, attempt_id: str) -> None:
    """Send one of the requests repeatedly, and print the statuses of the responses."""
    request = bombs(rollout_id, attempt_id)[name].encode(urlsplit(url).netloc)
    print(json.dumps(asyncio.run(send_repeatedly(url, request, seconds))))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", url, name, seconds, rollout_id, attempt_id]:
            send(url, name, float(seconds), rollout_id, attempt_id)
        case _:
            main()
