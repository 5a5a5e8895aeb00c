"""A store outage loses no span and no result: both wait in a disk buffer that outlives the runner."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

import agentlightning as agl
from agentlightning.tracer import pipeline as pipelines
from agentlightning.tracer.disk_buffer import DiskBuffer, buffer_folder, claim, leftover_files
from tests.faults.failing_disk import CannotMount, ProgramOnSmallDisk
from tests.processes import TIMEOUT, Program, free_port

from .conftest import eventually

SPANS = 40

SCRIPT = f"""
import asyncio, pathlib, sys
import agentlightning as agl
from agentlightning.runner import agent_runner, claim_loop

agl.setup_logging()
agent_runner.REPORT_TIMEOUT = claim_loop.REPORT_TIMEOUT = 0.2

async def agent(task):
    print("started", flush=True)
    while not pathlib.Path(sys.argv[2]).exists():
        await asyncio.sleep(0.01)
    for n in range({SPANS}):
        agl.emit_object({{"n": n}})
    return 0.5

async def main():
    store = agl.LightningStoreClient(sys.argv[1])
    runner = agl.LitAgentRunner(agl.OtelTracer(), drain_seconds=0.2)
    with runner.run_context(agent=agent, store=store):
        await runner.iter()

asyncio.run(main())
"""


class Site:
    """A folder with a store's database and the disk buffers of its runners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.go = folder / "go"
        (folder / "runner.py").write_text(SCRIPT)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[agl.LightningStoreServer]:
        """Serve the store; the database and the port are always the same."""
        server = agl.LightningStoreServer(agl.SqliteLightningStore(self.folder / "agl.db"), port=self.port)
        await server.start()
        yield server
        await server.close()

    def runner(self) -> Program:
        environment = {"AGL_SPOOL_DIR": str(self.folder / "spool")}
        return Program(self.folder / "runner.py", self.url, str(self.go), environment=environment)

    def buffers(self) -> list[Path]:
        return list(self.folder.glob("spool/*/*"))

    def has_report(self) -> bool:
        return any(b'"status":"succeeded"' in path.read_bytes() for path in self.buffers())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_long_outage_loses_no_span_and_no_result(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the queue in memory to 50 spans, so that a short outage has the effect of one of ten minutes."""
    monkeypatch.setattr(pipelines, "QUEUE_SPANS", 50)
    monkeypatch.setenv("AGL_SPOOL_DIR", str(site.folder / "spool"))
    rollouts, spans = 8, 100
    started, release = asyncio.Semaphore(0), asyncio.Event()

    async def agent(task: int) -> float:
        started.release()
        await release.wait()
        for n in range(spans):
            agl.emit_object({"n": n})
        return task / 10

    async with AsyncExitStack() as first, agl.LightningStoreClient(site.url) as store:
        await first.enter_async_context(site.store())
        ids = [(await store.enqueue_rollout(n)).rollout_id for n in range(rollouts)]
        runner = agl.LitAgentRunner[Any](agl.OtelTracer(), max_rollouts=rollouts, max_concurrency=rollouts)
        with runner.run_context(agent=agent, store=store):
            running = asyncio.create_task(runner.iter())
            for _ in range(rollouts):
                await started.acquire()
            await first.aclose()
            release.set()
            await eventually(lambda: sum(path.read_bytes().count(b'"status":"succ') for path in site.buffers()) == 8)
            async with site.store():
                await asyncio.wait_for(running, TIMEOUT)
                ended: list[Any] = await store.wait_for_rollouts(ids)
                stored = [await store.query_spans(rollout_id) for rollout_id in ids]

    assert [(each.status, each.reward) for each in ended] == [("succeeded", n / 10) for n in range(rollouts)]
    assert [[_n(span) for span in each] for each in stored] == [[*range(spans), None]] * rollouts
    assert site.buffers() == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_unsent_spans_of_a_runner_are_sent_by_the_next(site: Site, end: signal.Signals) -> None:
    async with agl.LightningStoreClient(site.url) as client:
        with site.runner() as runner:
            async with site.store():
                rollout = await client.enqueue_rollout("task")
                await asyncio.to_thread(runner.wait_for_line, "started")
            site.go.touch()
            await eventually(site.has_report)
            where = runner.wait_for_line(r"spans and results are being buffered in (\S+)")[1]
            runner.send_signal(end)
            runner.wait()
        [buffer] = site.buffers()
        assert str(buffer) == where
        assert [stat.S_IMODE(path.stat().st_mode) for path in (buffer.parent, buffer)] == [0o700, 0o600]
        if end == signal.SIGKILL:
            with buffer.open("ab") as file:
                file.write(b'{"spans":[{"name":"written in hal')
        else:
            runner.wait_for_line(
                f"{SPANS + 2} spans and results are saved in {where}; "
                "the next runner of this store on this machine will send them"
            )

        async with site.store():
            with site.runner() as second:
                ended: Any = (await client.wait_for_rollouts([rollout.rollout_id], timeout=TIMEOUT))[0]
                spans = await client.query_spans(rollout.rollout_id)
                second.wait_for_line(f"of an earlier process from {where}: {SPANS + 1} spans, 1 results")
                await eventually(lambda: site.buffers() == [])

    assert (ended.status, ended.reward, ended.attempt.sequence_id) == ("succeeded", 0.5, 1)
    assert [_n(span) for span in spans] == [*range(SPANS), None]


async def test_full_disk_during_an_outage_loses_no_span(site: Site) -> None:
    disk = site.folder / "disk"
    disk.mkdir()
    script, environment = site.folder / "runner.py", {"AGL_SPOOL_DIR": str(disk)}
    async with agl.LightningStoreClient(site.url) as client:
        with ProgramOnSmallDisk(disk, "1m", script, site.url, str(site.go), environment=environment) as runner:
            async with site.store():
                rollout = await client.enqueue_rollout("task")
                try:
                    await asyncio.to_thread(runner.wait_for_start, "started")
                except CannotMount as error:
                    pytest.skip(f"a tmpfs cannot be mounted here: {error}")
            runner.fill()
            site.go.touch()
            await asyncio.to_thread(runner.wait_for_line, "spans cannot be written to disk")

            runner.empty()
            await asyncio.to_thread(runner.wait_for_line, "can be written to disk again")
            async with site.store():
                ended: Any = (await client.wait_for_rollouts([rollout.rollout_id], timeout=TIMEOUT))[0]
                spans = await client.query_spans(rollout.rollout_id)

    assert (ended.status, ended.reward) == ("succeeded", 0.5)
    assert [_n(span) for span in spans] == [*range(SPANS), None]
    assert runner.output.count("cannot be written to disk") == 1


async def test_spans_that_the_store_refuses_are_set_aside_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AGL_SPOOL_DIR", str(tmp_path))
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    async with agl.LightningStoreClient(server.endpoint) as client:
        buffer = _leave_buffer(
            client, [agl.Span.from_attributes(name="a", attributes={}, rollout_id="ro-x", attempt_id="at-x")]
        )
        tracer = agl.OtelTracer()
        tracer.init_worker(0, client)
        await eventually(lambda: not buffer.exists())
        tracer.teardown_worker()
    await server.close()

    [aside] = buffer.parent.iterdir()
    assert aside.name == buffer.with_suffix(".refused").name
    assert "ro-x" in caplog.text
    assert str(aside) in caplog.text


@pytest.mark.parametrize(
    "content", [b'{"spans": [\x00\x00\x00\n', b'{"items": []}\n', b"[]\n", b'{"spans": [], "reports": [{}]}\n']
)
async def test_damaged_file_is_set_aside_and_blocks_no_other(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AGL_SPOOL_DIR", str(tmp_path))
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    async with agl.LightningStoreClient(server.endpoint) as client:
        started = await client.start_rollout("task")
        ids: dict[str, Any] = {"rollout_id": started.rollout_id, "attempt_id": started.attempt.attempt_id}
        sound = _leave_buffer(client, [agl.Span.from_attributes(name="a", attributes={}, **ids)])
        damaged = sound.with_name(sound.name.replace("-1-0", "-1-1"))
        damaged.write_bytes(content)
        os.utime(damaged, (0, 0))  # the oldest is sent first
        tracer = agl.OtelTracer()
        tracer.init_worker(0, client)
        await eventually(lambda: not sound.exists())
        tracer.teardown_worker()
        spans = await client.query_spans(started.rollout_id)
    await server.close()

    assert [span.name for span in spans] == ["a"]
    assert [path.name for path in sound.parent.iterdir()] == [damaged.with_suffix(".refused").name]
    assert damaged.with_suffix(".refused").name in caplog.text


async def test_buffer_in_use_is_not_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_SPOOL_DIR", str(tmp_path))
    writing = DiskBuffer(tmp_path)
    writing.append(b"a line\n")

    [path] = leftover_files(tmp_path)
    with claim(path) as file:
        assert file is None
    writing.close()
    with claim(path) as file:
        assert file
        assert file.read() == b"a line\n"


def _leave_buffer(store: agl.LightningStoreClient, spans: list[agl.Span]) -> Path:
    folder = buffer_folder(store)
    assert folder
    folder.mkdir(parents=True)
    path = folder / f"{socket.gethostname()}-1-0.jsonl"
    path.write_bytes(orjson.dumps({"spans": [span.model_dump() for span in spans], "reports": []}) + b"\n")
    return path


def _n(span: agl.Span) -> int | None:
    """Return the number of an emitted object; None for other spans."""
    return None if (value := agl.get_object_value(span)) is None else value["n"]
