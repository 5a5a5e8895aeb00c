"""Pages by cursor: each continues after the previous one, while items are added and deleted."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

import orjson
import pytest

from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore
from agentlightning.store.sql import SqlStore
from agentlightning.types import PaginatedResult

from .making import claimed, span

Query = Callable[..., Awaitable[PaginatedResult[Any]]]

MODES: list[Any] = ["train", None, "val"]
BOTH_WAYS = pytest.mark.parametrize("order", ["asc", "desc"])


async def pages(
    query: Query, size: int, between: Callable[[], Awaitable[None]] | None = None, **given: Any
) -> list[Any]:
    """Read all pages of `size` and call `between` after each."""
    page = await query(limit=size, **given)
    found = [page]
    while page.cursor is not None:
        if between is not None:
            await between()
        page = await query(limit=size, cursor=page.cursor, **given)
        found.append(page)
    return found


async def of_every_kind(store: LightningStore) -> None:
    """Create rollouts with and without an end, a mode, resources and a reward; some are equal in all of them."""
    await store.add_resources({"prompt": "Hello"})  # pyright: ignore[reportArgumentType]
    for number, mode in enumerate(("train", None, "val", None, "train", "train", None)):
        attempted = await store.start_rollout(number, mode)
        if number % 2:
            await store.update_attempt(attempted.rollout_id, "latest", status="failed" if number == 3 else "succeeded")


@BOTH_WAYS
async def test_pages_by_cursor_contain_the_whole_list_in_order(store: LightningStore, order: Any) -> None:
    await of_every_kind(store)

    for sort_by in (None, "mode", "end_time", "status", "failed_first", "reward", "resources_version"):
        whole = await store.query_rollouts(sort_by=sort_by, sort_order=order)
        for size in (1, 3):
            found = await pages(store.query_rollouts, size, sort_by=sort_by, sort_order=order)

            assert [rollout for page in found for rollout in page] == whole.items
            assert {page.total for page in found} == {7}
        assert whole.cursor is None


@BOTH_WAYS
async def test_every_list_supports_cursors(store: LightningStore, order: Any) -> None:
    attempted = await claimed(store)
    rollout_id = attempted.rollout_id
    await store.add_many_spans([span(attempted, n, name="x" * 2_000, start_time=n / 3) for n in range(1, 6)])
    for number in range(5):
        await store.update_resources(f"rs-{number % 2}", {"prompt": str(number)})  # pyright: ignore[reportArgumentType]
        await store.update_worker(f"worker-{number}")
        await store.start_attempt(rollout_id)

    async def spans(**given: Any) -> PaginatedResult[Any]:
        return await store.query_spans(rollout_id, **given)

    async def attempts(**given: Any) -> PaginatedResult[Any]:
        return await store.query_attempts(rollout_id, **given)

    lists: list[tuple[Query, list[str]]] = [
        (spans, ["sequence_id", "name", "start_time", "parent_id"]),
        (attempts, ["sequence_id", "end_time", "worker_id"]),
        (store.query_resources, ["version", "resources_id", "update_time"]),
        (store.query_workers, ["worker_id", "status", "last_heartbeat_time", "last_busy_time"]),
    ]
    for query, fields in lists:
        for field in fields:
            whole = await query(sort_by=field, sort_order=order)
            found = await pages(query, 2, sort_by=field, sort_order=order)

            assert [each for page in found for each in page] == whole.items
            assert len(found) > 2


@BOTH_WAYS
@pytest.mark.parametrize("sort_by", [None, "start_time", "mode"])
async def test_items_that_stay_are_returned_once_while_others_change(
    store: LightningStore, sort_by: str | None, order: Any
) -> None:
    modes = cycle(MODES)
    ids: list[str] = []
    for _ in range(8):
        ids.append((await store.enqueue_rollout("there all the time", next(modes))).rollout_id)
        over = await store.start_rollout("goes", next(modes))
        await store.update_attempt(over.rollout_id, "latest", status="failed")

    async def change() -> None:
        await store.enqueue_rollout("new", next(modes))
        if isinstance(store, SqlStore):  # a client over HTTP cannot delete
            await store.delete_ended_before(time.time() + 60, 2)

    found = await pages(store.query_rollouts, 2, change, sort_by=sort_by, sort_order=order)

    assert len(found) > 4
    assert {page.total for page in found} == {16}  # the total of the first page
    listed = [rollout for page in found for rollout in page]
    assert sorted(each.rollout_id for each in listed if each.input == "there all the time") == sorted(ids)
    assert len({each.rollout_id for each in listed}) == len(listed)


async def test_filters_apply_to_pages_by_cursor(store: LightningStore) -> None:
    await of_every_kind(store)

    found = await pages(
        store.query_rollouts, 1, status_in=["failed"], mode_in=["train"], filter_logic="or", sort_by="mode"
    )

    assert [rollout.input for page in found for rollout in page] == [0, 4, 5, 3]
    assert {page.total for page in found} == {4}


INVALID_POSITIONS: list[Any] = [
    "no base64 at all",
    b"no JSON",
    [],
    {"key": 1},
    ["start_time", "asc", 1.5, "1", 3],
    ["start_time", "asc", 1.5, 2**63, 3],
    ["start_time", "asc", 1.5, 1.5, 3],
    ["start_time", "asc", True, 1, 3],
    ["start_time", "asc", "' OR 1 = 1 --", 1, 3],
    ["start_time", "asc", 1.5, 1, 3, "more"],
    ["start_time", "desc", 1.5, 1, 3],
    ["rollout_id", "asc", "ro-1", 1, 3],
    [None, "asc", None, 1, 3],
]


async def test_foreign_cursor_is_rejected(store: LightningStore) -> None:
    await store.enqueue_rollout("task")

    for position in INVALID_POSITIONS:
        text = orjson.dumps(position) if isinstance(position, list | dict) else position
        cursor = text if isinstance(text, str) else base64.urlsafe_b64encode(text).decode()
        with pytest.raises(InvalidInput, match="invalid cursor") as refused:
            await store.query_rollouts(sort_by="start_time", cursor=cursor)

        assert refused.value.field == "cursor"


async def test_cursor_with_an_offset_is_rejected(store: LightningStore) -> None:
    await of_every_kind(store)
    page = await store.query_rollouts(limit=2)

    with pytest.raises(InvalidInput, match="offset"):
        await store.query_rollouts(cursor=page.cursor, offset=2)
