"""Size of the code, and the number of functions and files through which three calls pass.

    python -m benchmarks.structure

A line of code is a line that is not blank, a comment or a docstring. The calls run in one process with a store server
over HTTP and its client, after a warm-up; each call or return between functions in two different files of the package
is one change of file. Functions of other libraries are not counted. Writes benchmarks/results/structure.json.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import tokenize
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from openai import OpenAI

import agentlightning as agl
from tests.scripted_model import ScriptedModel

from .results import ROOT, write_result

FOLDERS = ("agentlightning", "tests", "benchmarks", "docs", "examples")
PACKAGE = str(ROOT / "agentlightning") + os.sep
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def measure_code(folder: Path) -> dict[str, Any]:
    """Count files, lines of code, functions, and the lengths of their bodies."""
    lines, bodies = 0, list[int]()
    paths = sorted(folder.rglob("*.py"))
    for path in paths:
        text = path.read_text()
        tree = ast.parse(text)
        code = code_lines(text, tree)
        lines += len(code)
        bodies += [
            sum(node.body[0].lineno <= line <= (node.end_lineno or 0) for line in code)
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
    return {
        "lines_of_code": lines,
        "files": len(paths),
        "functions": len(bodies),
        "median_body": statistics.median(bodies or [0]),
        "longest_body": max(bodies, default=0),
    }


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that are not blank, a comment or a docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in LAYOUT for line in range(token.start[0], token.end[0] + 1)}
    return lines - {line for node in ast.walk(tree) for line in _docstring_lines(node)}


def _docstring_lines(node: ast.AST) -> list[int]:
    body = getattr(node, "body", None)
    return [
        line
        for child in (body if isinstance(body, list) else [])
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str)
        for line in range(child.lineno, (child.end_lineno or child.lineno) + 1)
    ]


class CallCounter:
    """Counts calls within the package, on all threads, while a block of code runs."""

    def __init__(self) -> None:
        self._counting = False
        self._lock = threading.Lock()
        """Protects the counts from the threads that are profiled."""
        self._local = threading.local()
        self._functions = set[CodeType]()
        self._files = set[str]()
        self._calls = self._changes = 0

    def start(self) -> None:
        """Profile this thread, and all threads started from now on."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    async def count(self, call: Callable[[], Awaitable[Any]]) -> dict[str, int]:
        """Return the counts of one call."""
        self._functions, self._files, self._calls, self._changes = set(), set(), 0, 0
        self._counting = True
        try:
            await call()
        finally:
            self._counting = False
        return {
            "functions": len(self._functions),
            "files": len(self._files),
            "changes_of_file": self._changes,
            "calls": self._calls,
        }

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE):
            return
        stack: list[str] = self._local.__dict__.setdefault("stack", [])
        if event == "return":
            del stack[-1:]
            return
        if self._counting:
            with self._lock:
                self._calls += 1
                self._functions.add(code)
                self._files.add(code.co_filename)
                self._changes += bool(stack) and stack[-1] != code.co_filename
        stack.append(code.co_filename)


async def measure_calls(folder: Path, model: ScriptedModel) -> dict[str, Any]:
    """Count an enqueue, an enqueue that wakes a waiting claim, and a rollout with one model call."""
    counter = CallCounter()
    counter.start()  # before the server starts its threads
    server = agl.LightningStoreServer(agl.SqliteLightningStore(folder / "agl.db"), port=0)
    await server.start()
    client = agl.LightningStoreClient(server.endpoint)
    try:
        return {
            "enqueue_rollout": await _count_enqueue(counter, client),
            "enqueue and waiting claim": await _count_waiting_claim(counter, client),
            "runner.step with one model call": await _count_step(counter, client, model),
        }
    finally:
        await client.close()
        await server.close()
        counter.stop()


async def _count_enqueue(counter: CallCounter, client: agl.LightningStoreClient) -> dict[str, int]:
    for _ in range(3):  # warm up
        await client.enqueue_rollout({"warm": 1})
        await client.dequeue_rollout(worker_id="w")
    return await counter.count(lambda: client.enqueue_rollout({"n": 1}))


async def _count_waiting_claim(counter: CallCounter, client: agl.LightningStoreClient) -> dict[str, int]:
    while await client.dequeue_rollout(worker_id="w"):
        pass
    waiting = asyncio.create_task(client.dequeue_rollout(worker_id="w", wait=20))
    await asyncio.sleep(0.5)  # until the claim waits in the store

    async def enqueue() -> None:
        await client.enqueue_rollout({"n": 2})
        await asyncio.wait_for(waiting, 10)

    return await counter.count(enqueue)


async def _count_step(counter: CallCounter, client: agl.LightningStoreClient, model: ScriptedModel) -> dict[str, int]:
    def ask(task: Any) -> None:
        with OpenAI(base_url=model.base_url, api_key="none") as openai:
            openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])

    runner = agl.LitAgentRunner[Any](tracer=agl.LightningTracer())
    with runner.run_context(agent=agl.rollout(ask), store=client):
        for number in range(2):  # warm up
            await runner.step({"warm": number})
        return await counter.count(lambda: runner.step({"n": 3}))


def main() -> None:
    """Count, print and write."""
    result: dict[str, Any] = {"code": {folder: measure_code(ROOT / folder) for folder in FOLDERS}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        result["calls"] = asyncio.run(measure_calls(folder, stack.enter_context(ScriptedModel())))
    print(json.dumps(result, indent=1))
    write_result("structure", result)


if __name__ == "__main__":
    main()
