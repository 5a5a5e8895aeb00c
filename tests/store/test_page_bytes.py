"""Answers that end by bytes: pages of every list, claims of many rollouts, and rollouts that have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentlightning.concurrency import map_in_slices
from agentlightning.http.limits import Limits
from agentlightning.store import LightningStore, LightningStoreClient, LightningStoreServer, SqliteLightningStore
from agentlightning.store.encoded_span import truncate_span
from agentlightning.types import PromptTemplate

from ..contract.making import claimed, ended, span
from ..postgres import empty_store
from .raw import Raw

PAGE_BYTES = 100_000
ITEM = "x" * 30_000
ITEMS = 8
FITTING = 3
"""Number of items with `ITEM` that fit on a page."""


@pytest.fixture(params=["file", "postgres"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LightningStoreServer]:
    async with _opened(request.param, tmp_path) as store, _served(store) as server:
        yield server


@asynccontextmanager
async def _opened(kind: str, path: Path) -> AsyncGenerator[LightningStore]:
    if kind == "postgres":
        async with empty_store() as store:
            yield store
    else:
        async with SqliteLightningStore(path / "agl.db", durability="process") as store:
            yield store


@asynccontextmanager
async def _served(store: LightningStore, **limits: int) -> AsyncGenerator[LightningStoreServer]:
    server = LightningStoreServer(store, port=0, limits=Limits(**{"page_bytes": PAGE_BYTES, **limits}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass
class Listing:
    """A list of the store: a function that adds an item of about the length of a text, and the list's query."""

    name: str
    add: Callable[[LightningStore, Any, str], Awaitable[Any]]
    in_rollout: bool = False

    def arguments(self, parent: Any) -> dict[str, Any]:
        return {"rollout_id": parent.rollout_id} if self.in_rollout else {}


async def _add_span(store: LightningStore, parent: Any, text: str) -> None:
    number = await store.get_next_span_sequence_id(parent.rollout_id, parent.attempt.attempt_id)
    await store.add_span(span(parent, number, sequence_id=number, attributes={"text": text}))


async def _add_attempt(store: LightningStore, parent: Any, text: str) -> None:
    await store.start_attempt(parent.rollout_id)
    await store.update_attempt(parent.rollout_id, "latest", metadata={"text": text})


LISTINGS = [
    Listing("query_rollouts", lambda store, _, text: store.enqueue_rollout(text)),
    Listing("query_rollouts", lambda store, _, text: store.enqueue_rollout("small", metadata={"text": text})),
    Listing("query_spans", _add_span, in_rollout=True),
    Listing("query_attempts", _add_attempt, in_rollout=True),
    Listing("query_resources", lambda store, _, text: store.add_resources({"p": PromptTemplate(template=text)})),
    Listing("query_workers", lambda store, _, text: store.update_worker(f"w{time.time_ns()}", {"text": text})),
]


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.name)
async def test_page_ends_by_bytes_and_cursors_lead_to_every_item_once(server: Any, listing: Listing) -> None:
    parent = await claimed(server)
    before = (await getattr(server, listing.name)(**listing.arguments(parent))).total
    for _ in range(ITEMS):
        await listing.add(server, parent, ITEM)
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    async with Raw(server.endpoint) as raw, LightningStoreClient(server.endpoint) as client:
        while not pages or (cursor := {"cursor": pages[-1]["cursor"]})["cursor"]:
            pages.append((await raw.call(listing.name, {**listing.arguments(parent), **cursor})).json)
        whole = await getattr(client, listing.name)(**listing.arguments(parent))
        some = await getattr(client, listing.name)(**listing.arguments(parent), limit=ITEMS - 1)

    expected = await getattr(server, listing.name)(**listing.arguments(parent))
    assert [orjson.loads(orjson.dumps(item)) for page in pages for item in page["items"]] == [
        each.model_dump(mode="json") for each in expected
    ]
    assert all(1 <= len(page["items"]) <= FITTING + before for page in pages)
    assert {page["total"] for page in pages} == {before + ITEMS}
    assert (list(whole), list(some)) == (list(expected), list(expected)[: ITEMS - 1])


async def test_item_above_the_limit_is_returned_alone(server: Any) -> None:
    for text in ("small", "x" * PAGE_BYTES, "small"):
        await server.enqueue_rollout(text)
    async with Raw(server.endpoint) as raw:
        pages = [(await raw.call("query_rollouts", {"offset": offset})).json for offset in range(3)]

    assert [[len(item["input"]) for item in page["items"]] for page in pages] == [[5], [PAGE_BYTES], [5]]


async def test_sorted_list_with_offset_ends_by_bytes(server: Any) -> None:
    for number in range(ITEMS):
        await server.enqueue_rollout(f"{number}{ITEM}")
    async with Raw(server.endpoint) as raw:
        query = {"sort_by": "start_time", "sort_order": "desc", "offset": 1, "limit": ITEMS}
        page = (await raw.call("query_rollouts", query)).json

    assert [item["input"][0] for item in page["items"]] == ["6", "5", "4"]
    assert (page["offset"], page["limit"], page["total"]) == (1, ITEMS, ITEMS)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io to count the bytes read")
@pytest.mark.parametrize("cut", [{}, {"cut_at": 100}], ids=str)
@pytest.mark.parametrize("name", ["query_spans", "query_rollouts"])
async def test_page_reads_no_more_than_its_own_rows(tmp_path: Path, name: str, cut: dict[str, int]) -> None:
    row = 500_000
    async with SqliteLightningStore(tmp_path / "agl.db", durability="process") as store, _served(store) as server:
        parent = await claimed(store)
        for _ in range(40):
            await store.enqueue_rollout("x" * row)
            await _add_span(store, parent, "x" * row)
        arguments = {"rollout_id": parent.rollout_id} if name == "query_spans" else {"offset": 1}
        async with Raw(server.endpoint) as raw:
            before = _bytes_read()
            page = (await raw.call(name, {**arguments, **cut})).json
            read = _bytes_read() - before

    assert len(page["items"]) == 1
    assert read < 10 * row


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_slices_let_other_tasks_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work(number: int) -> int:
        until = time.perf_counter() + 0.004
        while time.perf_counter() < until:
            pass
        return number + 1

    counting = asyncio.create_task(count())
    assert await map_in_slices(work, range(30)) == list(range(1, 31))
    counting.cancel()
    assert turns >= 10


async def test_claim_of_many_takes_as_many_as_fit(server: Any) -> None:
    for _ in range(ITEMS):
        await server.enqueue_rollout(ITEM)
    async with LightningStoreClient(server.endpoint) as client:
        claims = [await client.dequeue_many_rollouts(limit=ITEMS) for _ in range(3)]

    assert [len(each) for each in claims] == [FITTING, FITTING, ITEMS - 2 * FITTING]


async def test_client_gets_every_ended_rollout_although_one_answer_cannot_hold_them(server: Any) -> None:
    rollouts = [await ended(server, input=ITEM) for _ in range(ITEMS)]
    ids = [each.rollout_id for each in rollouts]
    async with Raw(server.endpoint) as raw, LightningStoreClient(server.endpoint) as client:
        answer = (await raw.call("wait_for_rollouts", {"rollout_ids": ids, "timeout": 0})).json
        found = await client.wait_for_rollouts(ids, timeout=0)

    assert [each["rollout_id"] for each in answer] == ids[:FITTING]
    assert [each.rollout_id for each in found] == ids


async def test_batch_of_lookups_ends_by_bytes_and_the_client_repeats_the_rest(server: Any) -> None:
    rollout = await server.enqueue_rollout(ITEM)
    lookup = {"operation": "get_rollout_by_id", "arguments": {"rollout_id": rollout.rollout_id}}
    async with Raw(server.endpoint) as raw, LightningStoreClient(server.endpoint) as client:
        response = await raw.send("POST", "/batch", orjson.dumps({"operations": [lookup] * 40}))
        found = await asyncio.gather(*(client.get_rollout_by_id(rollout.rollout_id) for _ in range(40)))

    statuses = [each["status"] for each in response.json["answers"]]
    assert set(statuses) == {200, 429}
    assert "page_bytes" in response.json["answers"][statuses.index(429)]["body"]["detail"]
    assert found == [rollout] * 40


def test_truncating_a_large_span_leaves_its_other_fields_as_they_are() -> None:
    text = 'é"\\😀' * 100_000
    whole: dict[str, Any] = {
        "rollout_id": "ro", "attempt_id": "at", "trace_id": "t", "span_id": "s", "name": "n", "sequence_id": 3,
        "attributes": {"long": text, "edge": "😀" * 200, "list": [text], "small": [1, {"a": None}], "number": 1.5},
        "events": [{"name": "event", "timestamp": 1.0, "attributes": {}}], "status": {"status_code": "OK"},
    }  # fmt: skip
    for encoded in (orjson.dumps(whole), orjson.dumps(whole).replace("😀".encode(), b"\\ud83d\\ude00")):
        cut = orjson.loads(truncate_span(encoded, 1_000))

        attributes = cut.pop("attributes")
        assert {name: cut[name] for name in whole if name != "attributes"} == {
            name: value for name, value in whole.items() if name != "attributes"
        }
        assert attributes["long"] == text[:200] + "…"
        assert attributes["list"].startswith('["é')
        assert (attributes["edge"], attributes["small"], attributes["number"]) == ("😀" * 200, [1, {"a": None}], 1.5)
        assert attributes["agentlightning.cut"] == len(encoded)
