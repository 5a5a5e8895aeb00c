"""Spans across the fork and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROGRAM = """
import asyncio, os, sys
from agentlightning.store import LightningStore
from agentlightning.tracer import OtelTracer

class FileStore(LightningStore):
    async def add_many_spans(self, spans):
        with open(sys.argv[1], "a") as file:
            file.writelines(f"{os.getpid() == parent} {span.name}\\n" for span in spans)
        return list(spans)

parent = os.getpid()
tracer = OtelTracer()
tracer.init_worker(0, FileStore())

async def main():
    async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1", flush=False):
        tracer.create_span("before")
        await tracer.flush()
        tracer.create_span("queued at the fork")
        if not os.fork():
            tracer.create_span("in the child")
            await tracer.flush()
            os._exit(0)
        os.wait()
        tracer.create_span("queued at the end")

asyncio.run(main())
"""


def test_fork_and_exit_send_every_span_once_from_its_own_process(tmp_path: Path) -> None:
    path = tmp_path / "spans"

    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, str(path)], check=True, timeout=30)

    assert sorted(path.read_text().splitlines()) == [
        "False in the child",
        "True before",
        "True queued at the end",
        "True queued at the fork",
    ]
