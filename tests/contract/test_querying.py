"""Queries: filters, order, pages and totals, equal for all lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore
from agentlightning.types import Config, EnqueueRolloutRequest, PaginatedResult, Rollout, RolloutConfig

from .making import RETRYING, claimed, span

ALL_PAGES = pytest.mark.parametrize(
    ("limit", "offset", "picked"),
    [
        (-1, 0, slice(0, None)),
        (0, 0, slice(0, 0)),
        (2, 0, slice(0, 2)),
        (2, 1, slice(1, 3)),
        (-1, 2, slice(2, None)),
        (99, 0, slice(0, None)),
        (2, 99, slice(99, None)),
        (0, 2, slice(0, 0)),
    ],
)


async def rollouts_of_every_kind(store: LightningStore) -> dict[str, Rollout]:
    """Create one rollout in each status, in this order, and return them by status."""
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    modes: list[Any] = ["train", None, "val", "train", "test", None, "val"]
    names = ["succeeded", "failed", "running", "preparing", "requeuing", "cancelled", "queuing"]
    for name, mode in zip(names, modes, strict=True):
        rollout = await store.enqueue_rollout(name, mode, config=config if name == "requeuing" else None)
        if name != "queuing" and name != "cancelled":
            await store.start_attempt(rollout.rollout_id)
        if name == "cancelled":
            await store.update_rollout(rollout.rollout_id, status="cancelled")
        elif name not in ("queuing", "preparing"):
            reported: Any = "failed" if name == "requeuing" else name
            await store.update_attempt(rollout.rollout_id, "latest", status=reported)
    return {rollout.input: rollout for rollout in await store.query_rollouts()}


def names(page: PaginatedResult[Any]) -> list[str]:
    return [rollout.input for rollout in page]


# Rollouts


async def test_rollouts_are_listed_in_order_of_creation(store: LightningStore) -> None:
    rollouts = await rollouts_of_every_kind(store)

    page = await store.query_rollouts()

    assert [(rollout.input, rollout.status) for rollout in page] == [(name, name) for name in rollouts]
    assert names(page) == ["succeeded", "failed", "running", "preparing", "requeuing", "cancelled", "queuing"]
    assert [hasattr(rollout, "attempt") for rollout in page] == [True, True, True, True, True, False, False]
    assert (page.limit, page.offset, page.total) == (-1, 0, 7)


async def test_rollouts_found_by_id_are_in_order_of_creation(store: LightningStore) -> None:
    rollouts = await rollouts_of_every_kind(store)
    ids = [rollouts[name].rollout_id for name in ("queuing", "failed")]

    by_id = [rollouts["failed"], rollouts["queuing"]]
    assert (await store.query_rollouts(ids)).items == by_id
    assert (await store.query_rollouts(rollout_id_in=ids)).items == by_id
    assert (await store.query_rollouts(rollout_ids=ids)).items == by_id
    assert (await store.query_rollouts([*ids, ids[0], "ro-unknown"])).items == by_id
    assert (await store.query_rollouts(["ro-unknown"])).items == []


async def test_empty_filter_list_matches_nothing(store: LightningStore) -> None:
    await store.enqueue_rollout("task")

    assert (await store.query_rollouts([])).items == []
    assert (await store.query_rollouts(status_in=[])).items == []


@pytest.mark.parametrize(
    "statuses", [["queuing"], ["queuing", "requeuing"], ["succeeded", "failed", "cancelled"], ["running"]]
)
async def test_rollouts_are_found_by_status(store: LightningStore, statuses: list[Any]) -> None:
    rollouts = await rollouts_of_every_kind(store)
    expected = [rollout for name, rollout in rollouts.items() if name in statuses]

    assert (await store.query_rollouts(status_in=statuses)).items == expected
    assert (await store.query_rollouts(status=statuses)).items == expected
    assert (await store.query_rollouts(status_in=statuses)).total == len(expected)


async def test_rollouts_are_found_by_part_of_their_id(store: LightningStore) -> None:
    rollouts = await rollouts_of_every_kind(store)
    one = rollouts["running"]

    assert (await store.query_rollouts(rollout_id_contains=one.rollout_id[3:])).items == [one]
    assert (await store.query_rollouts(rollout_id_contains="ro-")).total == 7
    for nothing in ("%", "_", "ro_", "RO-", "*", "' OR 1=1 --"):
        assert (await store.query_rollouts(rollout_id_contains=nothing)).items == []


async def test_filter_logic_is_and_or_or(store: LightningStore) -> None:
    rollouts = await rollouts_of_every_kind(store)
    ids = [rollouts[name].rollout_id for name in ("failed", "queuing")]

    both = await store.query_rollouts(ids, status_in=["queuing", "running"])
    either = await store.query_rollouts(ids, status_in=["queuing", "running"], filter_logic="or")
    part = await store.query_rollouts(
        status_in=["running"], rollout_id_contains=rollouts["failed"].rollout_id[3:], filter_logic="or"
    )

    assert names(both) == ["queuing"]
    assert names(either) == ["failed", "running", "queuing"]
    assert names(part) == ["failed", "running"]
    assert (await store.query_rollouts(filter_logic="or")).total == 7


@ALL_PAGES
async def test_rollouts_come_in_pages(store: LightningStore, limit: int, offset: int, picked: slice) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(5)])

    page = await store.query_rollouts(limit=limit, offset=offset)

    assert (page.items, page.limit, page.offset, page.total) == (rollouts[picked], limit, offset, 5)


async def test_query_without_limit_returns_all_items(store: LightningStore) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(2_100)])

    assert (await store.query_rollouts()).items == rollouts
    assert (await store.query_rollouts(limit=2_050)).items == rollouts[:2_050]
    assert (await store.query_rollouts([rollout.rollout_id for rollout in rollouts], offset=2_000)).total == 2_100


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("field", ["start_time", "rollout_id", "status", "mode", "end_time"])
async def test_rollouts_are_sorted_with_none_last(store: LightningStore, field: str, order: Any) -> None:
    rollouts = list((await rollouts_of_every_kind(store)).values())

    page = await store.query_rollouts(sort_by=field, sort_order=order)

    values = [getattr(rollout, field) for rollout in page]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=order == "desc")
    assert values == known + [None] * (len(values) - len(known))
    assert sorted(names(page)) == sorted(rollout.input for rollout in rollouts)


async def test_equal_sort_values_keep_the_order_of_creation(store: LightningStore) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n, mode="val") for n in range(6)])

    assert (await store.query_rollouts(sort_by="mode")).items == rollouts
    pages = [await store.query_rollouts(sort_by="mode", limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [rollout for page in pages for rollout in page] == rollouts


async def test_rollouts_are_found_by_mode_and_resources(store: LightningStore) -> None:
    for version in (1, 2):
        await store.update_resources("rs-mine", {"n": Config(value=version)})
        for mode in ("train", "val", None):
            await store.enqueue_rollout(f"{mode} {version}", mode)  # type: ignore[arg-type]
    await store.add_resources({})
    await store.enqueue_rollout("other", "test")

    async def found(**filters: Any) -> list[str]:
        return names(await store.query_rollouts(**filters))

    assert await found(mode_in=["val"]) == ["val 1", "val 2"]
    assert await found(mode_in=["val", "test"]) == ["val 1", "val 2", "other"]
    assert await found(mode_in=[]) == []
    assert await found(resources_id="rs-mine") == ["train 1", "val 1", "None 1", "train 2", "val 2", "None 2"]
    assert await found(resources_id="rs-mine", resources_version=2) == ["train 2", "val 2", "None 2"]
    assert await found(resources_id="rs-mine", resources_version=2, mode_in=["val"]) == ["val 2"]
    assert await found(resources_id="rs-none") == []
    assert await found(mode_in=["test"], resources_version=2, filter_logic="or") == [
        "train 2", "val 2", "None 2", "other",
    ]  # fmt: skip


async def test_rollouts_are_found_by_literal_text_of_their_input(store: LightningStore) -> None:
    for task in ("quite% sure", "quite sure", {"question": "snake_case?"}, {"question": "größer"}, "snakeXcase"):
        await store.enqueue_rollout(task)
    rollouts = (await store.query_rollouts()).items

    async def found(part: str) -> list[int]:
        return [rollouts.index(each) for each in await store.query_rollouts(text_contains=part)]

    assert await found("quite") == [0, 1]
    assert await found("quite%") == [0]
    assert await found("snake_") == [2]
    assert await found("question") == [2, 3]
    assert await found("größ") == [3]
    assert await found("%") == [0]
    assert await found("nowhere") == []
    assert await found(rollouts[4].rollout_id) == [4]


async def test_failed_rollouts_sort_first(store: LightningStore) -> None:
    await rollouts_of_every_kind(store)

    page = await store.query_rollouts(sort_by="failed_first")

    assert names(page)[0] == "failed"
    assert len(page) == 7


async def test_cut_at_truncates_long_inputs(store: LightningStore) -> None:
    short, long = {"q": "short"}, {"q": "x" * 1_000}
    for task in (short, long):
        await store.enqueue_rollout(task)

    cut = await store.query_rollouts(cut_at=100)

    assert cut[0].input == short
    assert isinstance(cut[1].input, str)
    assert ('{"q":"' + "x" * 1_000).startswith(cut[1].input.rstrip("…"))
    assert 50 <= len(cut[1].input) <= 101
    assert (await store.query_rollouts())[1].input == long
    assert (await store.query_rollouts(cut_at=100_000))[1].input == long


# Spans


@pytest.fixture
async def spans(store: LightningStore) -> Any:
    """Store five spans of two attempts, with names that contain wildcard characters."""
    first = await claimed(store, config=RETRYING)
    stored = await store.add_many_spans(
        [
            span(first, 1, "100% done", start_time=5.0, parent_id="ab" * 8),
            span(first, 2, "1000 done", start_time=1.0),
            span(first, 3, "snake_case", start_time=3.0, parent_id="cd" * 8, end_time=9.0),
        ]
    )
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    second = await store.dequeue_rollout()
    assert second is not None
    more = await store.add_many_spans(
        [
            span(second, 4, "snakeXcase", start_time=2.0).model_copy(update={"trace_id": f"{2:032x}"}),
            span(second, 5, "Größe\\'\"", start_time=4.0, parent_id="ab" * 8),
        ]
    )
    return [*stored, *more]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"name": "snake_case"}, [3]),
        ({"name": "snake"}, []),
        ({"name": "snake%"}, []),
        ({"name_contains": "snake"}, [3, 4]),
        ({"name_contains": "snake_"}, [3]),
        ({"name_contains": "_"}, [3]),
        ({"name_contains": "%"}, [1]),
        ({"name_contains": "100%"}, [1]),
        ({"name_contains": "\\"}, [5]),
        ({"name_contains": "'"}, [5]),
        ({"name_contains": "ß"}, [5]),
        ({"name_contains": "SNAKE"}, []),
        ({"name_contains": "*"}, []),
        ({"name_contains": ""}, [1, 2, 3, 4, 5]),
        ({"trace_id": f"{2:032x}"}, [4]),
        ({"trace_id_contains": "0002"}, [4]),
        ({"span_id": f"{2:016x}"}, [2]),
        ({"span_id_contains": "00003"}, [3]),
        ({"parent_id": "ab" * 8}, [1, 5]),
        ({"parent_id_contains": "bab"}, [1, 5]),
        ({"parent_id": "ab" * 8, "name_contains": "done"}, [1]),
        ({"parent_id": "ab" * 8, "name_contains": "done", "filter_logic": "or"}, [1, 2, 5]),
        ({"parent_id": "ab" * 8, "attempt_id": "latest", "filter_logic": "or"}, [5]),
        ({"attempt_id": "latest", "name_contains": "snake", "parent_id": "cd" * 8, "filter_logic": "or"}, [4]),
        ({"attempt_id": "latest"}, [4, 5]),
    ],
    ids=str,
)
async def test_spans_are_found_by_their_fields(
    store: LightningStore, spans: Any, filters: dict[str, Any], found: list[int]
) -> None:
    page = await store.query_spans(spans[0].rollout_id, **filters)

    assert sorted(int(each.span_id, 16) for each in page) == found
    assert [each for each in spans if each in page.items] == sorted(page.items, key=spans.index)
    assert page.total == len(found)


@ALL_PAGES
async def test_spans_come_in_pages(store: LightningStore, limit: int, offset: int, picked: slice) -> None:
    attempted = await claimed(store)
    stored = await store.add_many_spans([span(attempted, n) for n in range(5)])

    page = await store.query_spans(attempted.rollout_id, limit=limit, offset=offset)

    assert (page.items, page.limit, page.offset, page.total) == (stored[picked], limit, offset, 5)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("field", ["sequence_id", "start_time", "end_time", "name", "span_id", "trace_id", "parent_id"])
async def test_spans_are_sorted_with_none_last(store: LightningStore, spans: Any, field: str, order: Any) -> None:
    page = await store.query_spans(spans[0].rollout_id, sort_by=field, sort_order=order)

    values = [getattr(each, field) for each in page]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=order == "desc")
    assert values == known + [None] * (len(values) - len(known))
    assert len(values) == 5


async def test_cut_at_truncates_long_attributes(store: LightningStore) -> None:
    attempted = await claimed(store)
    attributes = {"short": "kept", "number": 7, "long": "x" * 10_000}
    await store.add_many_spans([span(attempted, 1, attributes=attributes), span(attempted, 2)])

    cut, small = await store.query_spans(attempted.rollout_id, cut_at=500)
    (whole, _) = await store.query_spans(attempted.rollout_id)

    assert {name: cut.attributes[name] for name in ("short", "number")} == {"short": "kept", "number": 7}
    assert len(str(cut.attributes["long"])) <= 500
    assert cut.attributes["agentlightning.cut"] > 10_000
    assert "agentlightning.cut" not in small.attributes
    assert whole.attributes == attributes


# Attempts, resources, workers


@ALL_PAGES
async def test_attempts_come_in_pages(store: LightningStore, limit: int, offset: int, picked: slice) -> None:
    rollout = await store.start_rollout("task")
    for _ in range(4):
        await store.start_attempt(rollout.rollout_id)
    attempts = (await store.query_attempts(rollout.rollout_id)).items

    page = await store.query_attempts(rollout.rollout_id, limit=limit, offset=offset)
    backwards = await store.query_attempts(rollout.rollout_id, sort_order="desc", limit=limit, offset=offset)

    assert (page.items, page.limit, page.offset, page.total) == (attempts[picked], limit, offset, 5)
    assert backwards.items == attempts[::-1][picked]
    assert [attempt.sequence_id for attempt in attempts] == [1, 2, 3, 4, 5]


@ALL_PAGES
async def test_resources_come_in_pages(store: LightningStore, limit: int, offset: int, picked: slice) -> None:
    updates = [await store.update_resources(f"rs {n % 2}", {"config": Config(value=n)}) for n in range(5)]

    page = await store.query_resources(limit=limit, offset=offset)

    assert (page.items, page.limit, page.offset, page.total) == (updates[picked], limit, offset, 5)


async def test_resources_are_found_and_sorted(store: LightningStore) -> None:
    updates = [await store.update_resources(name, {}) for name in ("a_1", "a%1", "b", "a_1")]

    async def at(**query: Any) -> list[int]:
        return [updates.index(update) for update in await store.query_resources(**query)]

    assert await at(resources_id="a_1") == [0, 3]
    assert await at(resources_id="a") == []
    assert await at(resources_id_contains="a") == [0, 1, 3]
    assert await at(resources_id_contains="_") == [0, 3]
    assert await at(resources_id_contains="%") == [1]
    assert await at(resources_id="b", resources_id_contains="%") == []
    assert await at(resources_id="b", resources_id_contains="%", filter_logic="or") == [1, 2]
    assert await at(sort_by="version", sort_order="desc", limit=1) == [3]
    assert await at(sort_by="resources_id") == [1, 0, 3, 2]


@ALL_PAGES
async def test_workers_come_in_pages(store: LightningStore, limit: int, offset: int, picked: slice) -> None:
    workers = [await store.update_worker(f"worker-{n}") for n in range(5)]

    page = await store.query_workers(sort_by="worker_id", limit=limit, offset=offset)

    assert (page.items, page.limit, page.offset, page.total) == (workers[picked], limit, offset, 5)


async def test_workers_are_found_and_sorted(store: LightningStore) -> None:
    await store.update_worker("idle_1")
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(3)])
    for worker_id in ("busy%1", "busy_2", "lost"):
        await store.dequeue_rollout(worker_id=worker_id)
    lost = await store.get_worker_by_id("lost")
    assert lost is not None
    assert lost.current_rollout_id is not None
    await store.update_attempt(lost.current_rollout_id, "latest", status="unresponsive")

    async def ids(**query: Any) -> list[str]:
        return [worker.worker_id for worker in await store.query_workers(sort_by="worker_id", **query)]

    assert await ids() == ["busy%1", "busy_2", "idle_1", "lost"]
    assert await ids(sort_order="desc") == ["lost", "idle_1", "busy_2", "busy%1"]
    assert await ids(status_in=["busy"]) == ["busy%1", "busy_2"]
    assert await ids(status_in=["idle", "unknown"]) == ["idle_1", "lost"]
    assert await ids(status_in=[]) == []
    assert await ids(worker_id_contains="_") == ["busy_2", "idle_1"]
    assert await ids(worker_id_contains="%") == ["busy%1"]
    assert await ids(status_in=["busy"], worker_id_contains="_") == ["busy_2"]
    assert await ids(status_in=["busy"], worker_id_contains="_", filter_logic="or") == ["busy%1", "busy_2", "idle_1"]
    by_end = await store.query_workers(sort_by="last_idle_time")
    assert [worker.last_idle_time is None for worker in by_end] == sorted(
        worker.last_idle_time is None for worker in by_end
    )


# Invalid queries

Query = Callable[..., Awaitable[Any]]


def queries(store: LightningStore) -> dict[str, tuple[Query, tuple[str, ...], str]]:
    """Return every list operation with its arguments and a sortable field."""
    return {
        "rollouts": (store.query_rollouts, (), "start_time"),
        "attempts": (store.query_attempts, ("ro-1",), "sequence_id"),
        "resources": (store.query_resources, (), "version"),
        "spans": (store.query_spans, ("ro-1",), "sequence_id"),
        "workers": (store.query_workers, (), "worker_id"),
    }


LISTS = pytest.mark.parametrize("listed", ["rollouts", "attempts", "resources", "spans", "workers"])


@LISTS
async def test_invalid_sort_field_is_rejected_with_the_valid_ones(store: LightningStore, listed: str) -> None:
    query, arguments, allowed = queries(store)[listed]

    for field in ("nonsense", "start_time; DROP TABLE rollouts", "", "rowid", "input.a", "1"):
        for expected in (InvalidInput, ValueError):
            with pytest.raises(expected, match=allowed) as caught:
                await query(*arguments, sort_by=field)
        assert getattr(caught.value, "field", None) == "sort_by"

    assert (await query(*arguments, sort_by=allowed)).items == []


@LISTS
@pytest.mark.parametrize(
    "wrong",
    [{"sort_order": "sideways"}, {"limit": -2}, {"offset": -1}],
    ids=str,
)
async def test_invalid_page_is_rejected(store: LightningStore, listed: str, wrong: dict[str, Any]) -> None:
    query, arguments, _ = queries(store)[listed]

    with pytest.raises(InvalidInput, match=next(iter(wrong))) as caught:
        await query(*arguments, **wrong)

    assert caught.value.field == next(iter(wrong))


@pytest.mark.parametrize(
    ("listed", "wrong"),
    [
        ("rollouts", {"status_in": ["done"]}),
        ("rollouts", {"status_in": "queuing"}),
        ("rollouts", {"rollout_id_in": "ro-1"}),
        ("rollouts", {"filter_logic": "xor"}),
        ("resources", {"filter_logic": "xor"}),
        ("spans", {"filter_logic": "xor"}),
        ("workers", {"status_in": ["asleep"]}),
        ("workers", {"filter_logic": "xor"}),
    ],
    ids=str,
)
async def test_invalid_filter_is_rejected(store: LightningStore, listed: str, wrong: dict[str, Any]) -> None:
    query, arguments, _ = queries(store)[listed]

    with pytest.raises(InvalidInput, match=next(iter(wrong))) as caught:
        await query(*arguments, **wrong)

    assert (caught.value.field or "").startswith(next(iter(wrong)))


# Statistics


async def test_statistics_count_stored_objects(store: LightningStore) -> None:
    empty = await store.statistics()
    await rollouts_of_every_kind(store)
    await store.add_resources({"prompt": Config(value=1)})
    attempted = await store.start_rollout("task", worker_id="busy")
    await store.add_many_spans([span(attempted, n) for n in range(3)])
    await store.update_worker("idle")

    assert empty == {
        "rollouts": {},
        "attempts": 0,
        "spans": 0,
        "resources": 0,
        "workers": {},
        "queue_depth": 0,
    }
    assert await store.statistics() == {
        "rollouts": {
            "succeeded": 1,
            "failed": 1,
            "running": 2,
            "preparing": 1,
            "requeuing": 1,
            "cancelled": 1,
            "queuing": 1,
        },
        "attempts": 6,
        "spans": 3,
        "resources": 1,
        "workers": {"busy": 1, "idle": 1},
        "queue_depth": 2,
    }


async def test_capabilities_state_guarantees(store: LightningStore, way: str) -> None:
    remote = way.startswith("http")

    assert store.capabilities == {
        "durable": way != "memory",
        "thread_safe": True,
        "async_safe": True,
        "zero_copy": not remote,
        "otlp_traces": remote,
    }
    endpoint = store.otlp_traces_endpoint()
    assert (endpoint is not None) == remote
    assert endpoint is None or endpoint.endswith("/v1/traces")
