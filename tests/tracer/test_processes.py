"""Spans and the process's own beginning and end: forks, and exits in the middle of things."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_BEGIN = """
import asyncio, os, sys
from agentlightning.store import LightningStore
from agentlightning.tracer import OtelTracer

class File(LightningStore):
    async def add_many_spans(self, spans):
        with open(sys.argv[1], "a") as file:
            file.writelines(f"{os.getpid() == parent} {span.name}\\n" for span in spans)
        return list(spans)

parent = os.getpid()
tracer = OtelTracer()
tracer.init_worker(0, File())
whole = tracer.trace_context(rollout_id="ro-1", attempt_id="at-1")
"""


def _lines(rest: str, path: Path) -> list[str]:
    subprocess.run([sys.executable, "-W", "error", "-c", _BEGIN + rest, str(path)], check=True, timeout=30)
    return path.read_text().splitlines()


def test_spans_still_queued_when_the_process_ends_are_sent(tmp_path: Path) -> None:
    program = """
async def main():
    await whole.__aenter__()
    tracer.create_span("last words")

asyncio.run(main())
"""
    assert _lines(program, tmp_path / "spans") == ["True last words"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_sends_its_own_spans_and_not_its_parents(tmp_path: Path) -> None:
    program = """
async def main():
    async with whole:
        tracer.create_span("before")
        await tracer.flush()
        tracer.create_span("queued while forking")
        if not os.fork():
            tracer.create_span("in the child")
            await tracer.flush()
            os._exit(0)
        os.wait()
        tracer.create_span("after")

asyncio.run(main())
"""
    assert sorted(_lines(program, tmp_path / "spans")) == [
        "False in the child",
        "True after",
        "True before",
        "True queued while forking",
    ]
