"""What strangers may do to a store: too much, too slowly, with the wrong token. Others are served meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from agentlightning.errors import Forbidden, InvalidInput, NotFound, StoreBusy, Unauthorized
from agentlightning.http.limits import Limits
from agentlightning.redaction import redact_bytes
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import LLM, RolloutConfig

from ..conftest import Figure
from ..contract.conftest import WAYS
from ..contract.making import LONG_WAIT, claimed, ended, eventually, soon, span
from ..faults.lossy import served
from ..faults.slow_clients import Crowd, ask_beside
from ..timing import quickest
from .raw import ROUTES, Raw, gzip_bomb, send_bytes
from .stalled_writer import run_loop_iterations, stalled_writer

ADMIN, RUNNER = "agl-admin-" + "a" * 40, "agl-runner-" + "r" * 40
TIGHT = Limits(body=100_000, bodies=250_000, requests=20, head=4_000)
IMPATIENT = replace(TIGHT, head_seconds=0.5, body_seconds=0.5)


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), limits=TIGHT) as server:
        yield server


@pytest.fixture
async def impatient() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), limits=IMPATIENT) as server:
        yield server


# Slow and large


async def test_headers_that_do_not_end_are_cut_off(impatient: LightningStoreServer) -> None:
    began = time.monotonic()

    answer = await send_bytes(impatient.endpoint, b"GET /health HTTP/1.1\r\nHost: localhost\r\n")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.4 < time.monotonic() - began < 5


async def test_a_connection_on_which_nothing_comes_is_closed(impatient: LightningStoreServer) -> None:
    assert (await send_bytes(impatient.endpoint, b"")).startswith(b"HTTP/1.1 408 ")


async def test_headers_larger_than_the_limit_are_refused(server: LightningStoreServer) -> None:
    answer = await send_bytes(server.endpoint, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5_000)

    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_does_not_come_is_given_up(impatient: LightningStoreServer) -> None:
    head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"

    answer = await send_bytes(impatient.endpoint, head + b'{"input": ')

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


async def test_a_body_larger_than_the_limit_given_is_refused(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        assert (await raw.call("enqueue_rollout", {"input": "x" * 90_000})).status == 200
        assert (await raw.call("enqueue_rollout", {"input": "x" * 110_000})).status == 413


async def test_a_full_store_says_so_and_loses_nothing(server: LightningStoreServer) -> None:
    """Twenty bodies under way take all the room there is; the next call is told when to come again."""
    where = urlsplit(server.endpoint)
    head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n"
    slow = [await asyncio.open_connection(where.hostname, where.port) for _ in range(20)]
    for _, writer in slow:
        writer.write(head)
    async with Raw(server.endpoint) as raw:
        async with asyncio.timeout(LONG_WAIT):
            while (answer := await raw.call("enqueue_rollout", {"input": "refused"})).status == 200:
                pass
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert (await raw.send("GET", "/health")).status == 200
        assert "agl_refused_total 0" not in (await raw.send("GET", "/metrics")).text
    for _, writer in slow:
        writer.write(b'{"input":1}')
    answers = [await reader.read(12) for reader, _ in slow]
    for _, writer in slow:
        writer.close()

    assert answers == [b"HTTP/1.1 200"] * 20
    async with LightningStoreClient(server.endpoint) as client:
        assert sum(each.input == 1 for each in await client.query_rollouts()) == 20


async def test_a_client_waits_for_a_full_store_as_long_as_it_is_told(impatient: LightningStoreServer) -> None:
    where = urlsplit(impatient.endpoint)
    head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
    writers = [(await asyncio.open_connection(where.hostname, where.port))[1] for _ in range(3)]
    for writer in writers:
        writer.write(head)
    async with LightningStoreClient(impatient.endpoint, give_up_after=60) as client:
        await client.enqueue_rollout("x" * 60_000)  # comes in when the slow ones are given up

        assert (await client.statistics())["queue_depth"] == 1
    for writer in writers:
        writer.close()


async def test_waiting_runners_take_no_room(server: LightningStoreServer) -> None:
    async with LightningStoreClient(server.endpoint) as client:
        waiting = [asyncio.create_task(client.dequeue_rollout(wait=LONG_WAIT)) for _ in range(60)]
        rollouts = [await client.enqueue_rollout(number) for number in range(60)]

        claims: list[Any] = await asyncio.gather(*waiting)

    assert {claim.rollout_id for claim in claims} == {rollout.rollout_id for rollout in rollouts}


async def test_a_gzip_bomb_is_refused_at_once_and_takes_no_memory(figure: Figure) -> None:
    bomb = gzip_bomb(2**30)
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    try:
        async with Raw(server.endpoint) as raw:
            before, began = psutil.Process().memory_info().rss, time.process_time()
            traces = await raw.send(
                "POST", "/v1/traces", bomb, Content_Encoding="gzip", Content_Type="application/x-protobuf"
            )
            json = await raw.send("POST", "/enqueue_rollout", bomb, Content_Encoding="gzip")
            seconds, grown = time.process_time() - began, psutil.Process().memory_info().rss - before
    finally:
        await server.close()

    figure(f"a gzip bomb of {len(bomb)} bytes: refused twice in {1000 * seconds:.0f} ms, {grown / 2**20:.0f} MB grown")
    assert (traces.status, 400 <= json.status < 500) == (413, True)
    assert grown < 64 * 2**20
    assert seconds < 0.1


async def test_idle_and_slow_connections_hold_nobody_up(tmp_path: Path, figure: Figure) -> None:
    crowds: list[Crowd] = []

    async def p99_in_ms() -> float:
        crowds.append(await ask_beside(tmp_path, idle=1_000))
        return crowds[-1].p99_in_ms

    assert await quickest(p99_in_ms, 100) < 100
    figure(crowds[-1])


async def test_a_body_of_fifty_megabytes_is_refused_while_others_are_served() -> None:
    async with served(InMemoryLightningStore()) as server, LightningStoreClient(server.endpoint) as client:
        head = b"POST /enqueue_rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n"
        large = asyncio.create_task(send_bytes(server.endpoint, head + b"x" * 50_000_000))
        rollout = await client.enqueue_rollout("task")

        assert (await large).startswith(b"HTTP/1.1 413 ")
        assert (await client.query_rollouts()).items == [rollout]


# Tokens


@pytest.fixture
async def guarded() -> AsyncIterator[LightningStoreServer]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0, token=ADMIN, runner_token=RUNNER)
    await server.start()
    yield server
    await server.close()


async def test_a_runners_token_carries_rollouts_out_and_does_nothing_else(guarded: LightningStoreServer) -> None:
    async with (
        LightningStoreClient(guarded.endpoint, token=ADMIN) as admin,
        LightningStoreClient(guarded.endpoint, token=RUNNER) as runner,
    ):
        await admin.add_resources({"llm": LLM(endpoint="http://h/v1", model="m", api_key="secret")})
        rollout = await admin.enqueue_rollout("task")
        attempted = await runner.dequeue_rollout(worker_id="w")
        assert attempted is not None
        resources = await runner.get_latest_resources()
        assert resources is not None
        assert resources.resources["llm"].api_key == "secret"  # pyright: ignore
        await runner.add_span(span(attempted))
        await runner.update_worker("w")
        await runner.update_attempt(attempted.rollout_id, "latest", status="succeeded")

        for call in (
            runner.enqueue_rollout("mine"),
            runner.update_rollout(rollout.rollout_id, status="cancelled"),
            runner.add_resources({"prompt": "mine"}),
            runner.query_rollouts(),
            runner.query_resources(),
            runner.query_workers(),
        ):
            with pytest.raises(Forbidden, match="runner's token"):
                await call
        assert (await admin.statistics())["rollouts"] == {"succeeded": 1}


SPAN_OF_NOBODY = {
    "traceId": "0af7651916cd43dd8448eb211c80319c",
    "spanId": "b7ad6b7169203331",
    "name": "step",
    "startTimeUnixNano": "1",
    "endTimeUnixNano": "2",
}


@pytest.mark.parametrize("token", [None, "", "wrong", ADMIN[:-1], ADMIN + "a", RUNNER[:-1], "agl-attempt-x"])
async def test_no_other_token_opens_anything(guarded: LightningStoreServer, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for route in ROUTES.values():
            path = route.path.replace("{", "").replace("}", "")
            async with session.request(route.method, guarded.endpoint + path) as answer:
                assert answer.status == 401, route.path
        for path in ("/metrics", "/openapi.json", "/events"):
            async with session.get(guarded.endpoint + path) as answer:
                assert answer.status == 401, path
        traces = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN_OF_NOBODY]}]}]}
        async with session.post(f"{guarded.endpoint}/v1/traces", json=traces) as answer:
            assert answer.status in (200, 401, 403), "an attempt's token is looked at span by span"
            assert answer.status != 200 or (await answer.json())["partialSuccess"]["rejectedSpans"] in (1, "1")
        async with session.get(guarded.endpoint + "/health") as answer:
            assert answer.status == 200


def test_a_runners_token_needs_an_admins_beside_it() -> None:
    with pytest.raises(InvalidInput, match="admin"):
        LightningStoreServer(InMemoryLightningStore(), runner_token=RUNNER)


async def test_a_wrong_token_is_an_error_that_says_what_to_do(guarded: LightningStoreServer) -> None:
    async with LightningStoreClient(guarded.endpoint, token="wrong-" + "w" * 40) as client:
        with pytest.raises(Unauthorized, match="AGL_TOKEN"):
            await client.statistics()


# Keys


@pytest.mark.parametrize(
    "key",
    ["sk-proj-" + "a1B2" * 8, "sk-ant-api03-" + "x" * 40, "AKIA" + "A1" * 8, "AIza" + "b" * 35, "ghp_" + "c" * 36,
     "github_pat_" + "d" * 50, "hf_" + "e" * 34, "xoxb-123456789012-abcdefghij", ADMIN],
)  # fmt: skip
async def test_a_key_in_a_span_is_not_kept(key: str) -> None:
    async with InMemoryLightningStore() as store:
        attempted = await claimed(store)

        await store.add_span(span(attempted, attributes={"headers": f"Bearer {key}", "list": ["a", key], "n": 1}))

        (kept,) = await store.query_spans(attempted.rollout_id)
        assert kept.attributes == {"headers": "[redacted]", "list": ["a", "[redacted]"], "n": 1}


@pytest.mark.parametrize(
    "text",
    ["task-force one", "risk-assessment-of-everything-there-is", "123e4567-e89b-12d3-a456-426614174000",
     "gen_ai_prompt_template_of_the_longest_kind_there_is", "AKIA is a prefix", "sk-", "a" * 500],
)  # fmt: skip
def test_what_is_no_key_stays_as_it_is(text: str) -> None:
    assert redact_bytes(text.encode()) == text.encode()


def test_keys_are_kept_where_the_owner_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_KEEP_KEYS", "1")

    assert redact_bytes(b"sk-" + b"a" * 40) == b"sk-" + b"a" * 40


# Counters


async def test_what_went_wrong_is_counted(server: LightningStoreServer) -> None:
    store: Any = server.store
    attempted = await ended(store)
    done: Any = attempted
    with suppress(Exception):
        await store.update_attempt(done.rollout_id, "latest", status="failed")
    once = await claimed(store)
    for _ in range(3):
        await store.add_span(span(once))
    async with Raw(server.endpoint) as raw:
        await raw.send("GET", "/nowhere/at/all")
        text = (await raw.send("GET", "/metrics")).text

    for line in (
        "agl_stale_reports_total 1",
        "agl_duplicate_spans_total 2",
        "agl_lost_runners_total 0",
        'agl_rollouts{status="succeeded"} 1',
        "agl_spans 1",
        'agl_requests_total{operation="other",status="404"} 1',
    ):
        assert line in text.splitlines()


async def test_lost_runners_timeouts_and_what_they_left_undone_are_counted(server: LightningStoreServer) -> None:
    store: Any = server.store
    again = {"max_attempts": 2, "retry_condition": ["unresponsive"]}
    lost = await claimed(store, config=RolloutConfig(unresponsive_seconds=0.1, **again))
    late = await claimed(store, config=RolloutConfig(timeout_seconds=0.1))
    await soon(store.wait_for_rollouts([late.rollout_id]))
    await eventually(store, lost, lambda now: now.status == "requeuing")
    await store.update_rollout(lost.rollout_id, config=RolloutConfig(**again))
    retried = await soon(store.dequeue_rollout())
    assert retried.rollout_id == lost.rollout_id
    await store.add_many_spans([span(late, 1), span(late, 2)])

    async with Raw(server.endpoint) as raw:
        lines = (await raw.send("GET", "/metrics")).text.splitlines()

    for line in (
        "agl_lost_runners_total 1",
        "agl_timeouts_total 1",
        "agl_requeues_total 1",
        "agl_incomplete_traces_total 2",
        "agl_late_spans_total 2",
        'agl_rollouts{status="preparing"} 1',
    ):
        assert line in lines


@pytest.mark.parametrize("way", ["memory", "file", "postgres"])
async def test_what_is_begun_anew_since_another_call_failed_counts_once(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as made:
        store: Any = made
        running: Any = await claimed(store)
        over: Any = await ended(store)
        await store.add_span(span(running, 1))
        unknown = span(running, 3).model_copy(update={"attempt_id": "at-unknown"})
        before = store.counters.copy()
        async with stalled_writer(store):
            calls = [
                store.add_many_spans([span(running, 1)]),
                store.add_many_spans([span(over, 1)]),
                store.add_many_spans([span(running, 2), unknown]),  # fails when it has changed something
            ]
            answers = [asyncio.ensure_future(call) for call in calls]
            await run_loop_iterations()
        await soon(asyncio.wait(answers))

        assert [type(answer.exception()) for answer in answers] == [type(None), type(None), NotFound]
        assert store.counters - before == {"duplicate_spans": 1, "late_spans": 1}


async def test_the_writers_queue_has_an_end() -> None:
    from agentlightning.store.db.sqlite import SqliteDatabase

    database = SqliteDatabase(None)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("agentlightning.store.db.write_requests.MOST_WAITING", -1)
            with pytest.raises(StoreBusy):
                await database.write(lambda transaction: transaction.fetch("SELECT 1"))
        assert await database.write(lambda transaction: transaction.fetch("SELECT 1"))
    finally:
        await database.close()
