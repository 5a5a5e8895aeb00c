"""A store that runs out of memory answers 503 and continues, or its output names the crash; no request is to blame."""

from __future__ import annotations

import asyncio
import re
import resource
from pathlib import Path

import aiohttp
import orjson

from agentlightning.store import LightningStoreClient

from ..contract.making import span
from ..processes import Program, free_port
from .raw import Raw

SIZE = 12_000_000


def limit_memory(program: Program, spare: int) -> None:
    """Let the program use only `spare` more bytes of address space than it does now."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    size = int(re.findall(r"^VmSize:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
    resource.prlimit(program.pid, resource.RLIMIT_AS, (size + spare, size + spare))


async def test_requests_beyond_the_memory_get_503(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Program("agentlightning.cli", "store", "--port", str(port), cwd=tmp_path) as program:
        program.wait_for_line("^Store at")
        async with LightningStoreClient(url, give_up_after=10) as client, Raw(url) as raw:
            attempted = await client.start_rollout("task")
            small = span(attempted).model_dump()
            limit_memory(program, 200_000_000)

            async def status(number: int) -> int:
                large = {**small, "span_id": f"{number:016x}", "attributes": {"text": "x" * SIZE}}
                path, body = (
                    ("/add_span", {"span": large}) if number % 2 else ("/enqueue_rollout", {"input": "x" * SIZE})
                )
                try:
                    return (await raw.send("POST", path, orjson.dumps(body))).status
                except aiohttp.ClientError:
                    return 0  # there was no memory to read the request

            statuses = set(await asyncio.gather(*(status(number) for number in range(1, 17))))
            assert statuses <= {0, 200, 429, 503}
            assert statuses & {0, 503}
            if "Fatal Python error" not in program.output:
                await client.enqueue_rollout("after")
