"""Spans sent on over OTLP: all of them, in their order, whatever the other side does, and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

import agentlightning as agl
from agentlightning.errors import InvalidInput
from agentlightning.store import PostgresLightningStore
from agentlightning.store.otlp import export
from agentlightning.store.otlp.encode import encode_span
from agentlightning.store.otlp.export import OtlpExporter, OtlpTarget, parse_headers
from agentlightning.types import Event, Link, OtelResource, SpanContext, TraceStatus
from tests.otlp_receiver import Receiver, taken
from tests.postgres import empty_database
from tests.processes import TIMEOUT

TRACE = "5b8efff798038103d269b633813fc60c"
PLANTED = "sk-lf-planted-0123456789abcdef"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored is sent on at once: tests would wait for it."""
    monkeypatch.setattr(export, "BATCH_DELAY_SECONDS", 0.02)


class Live:
    """A served store that sends its spans on, with one running attempt."""

    def __init__(self, store: Any, server: agl.LightningStoreServer) -> None:
        self.store, self.server = store, server
        self.attempted: Any

    async def add(self, *names: str, **fields: Any) -> None:
        await self.store.add_many_spans([self.span(name, **fields) for name in names])

    def span(self, name: str, **fields: Any) -> agl.Span:
        return agl.Span(
            **{
                "trace_id": TRACE,
                "span_id": os.urandom(8).hex(),
                "rollout_id": self.attempted.rollout_id,
                "attempt_id": self.attempted.attempt.attempt_id,
                "name": name,
                "attributes": {},
                "start_time": 1_700_000_000.5,
                "end_time": 1_700_000_001.0,
                **fields,
            }
        )

    async def metrics(self) -> dict[str, float]:
        """The lines about targets, by name and target."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.server.endpoint}/metrics") as response:
            lines = (await response.text()).splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("agl_export")}


@asynccontextmanager
async def exporting(
    *targets: OtlpTarget | Receiver, database: str | Path = "memory:", past: bool = False
) -> AsyncIterator[Live]:
    found = [each if isinstance(each, OtlpTarget) else OtlpTarget.parse(f"there={each.url}") for each in targets]
    store: Any = agl.open_store(str(database))
    exporter = OtlpExporter(store, found, past=past) if found else None
    server = agl.LightningStoreServer(store, port=0, exporter=exporter)
    await server.start()
    try:
        live = Live(store, server)
        live.attempted = await store.start_rollout("task")
        yield live
    finally:
        await server.close()


def plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [plain(each) for each in value.array_value.values]
        case "kvlist_value":
            return {each.key: plain(each.value) for each in value.kvlist_value.values}
        case None:
            return None
        case kind:
            return getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


async def test_a_span_arrives_with_all_that_it_says(receiver: Receiver) -> None:
    said = {"text": "é", "yes": True, "count": 3, "share": 0.5, "words": ["a", "b"], "deep": {"a": [1]}, "big": 2**63}
    context = SpanContext(trace_id="ab" * 16, span_id="cd" * 8)
    async with exporting(receiver) as live:
        await live.add(
            "step",
            attributes={**said, "gen_ai.request.model": "m"},
            trace_id=TRACE,
            span_id="eee19b7ec3c1b174",
            parent_id="aaaaaaaaaaaaaaaa",
            status=TraceStatus(status_code="ERROR", description="broke"),
            events=[Event(name="moment", attributes={"n": 1}, timestamp=1_700_000_000.75)],
            links=[Link(context=context, attributes={"why": "because"})],
            resource=OtelResource(attributes={"service.name": "agent", "host": "here"}),
        )
        receiver.wait_for(1)

    [span], [resource] = receiver.spans, receiver.resources
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (
        TRACE,
        "eee19b7ec3c1b174",
        "aaaaaaaaaaaaaaaa",
    )
    assert attributes(span.attributes) == {
        **said,
        "big": str(2**63),
        "gen_ai.request.model": "m",
        "agentlightning.rollout_id": live.attempted.rollout_id,
        "agentlightning.attempt_id": live.attempted.attempt.attempt_id,
        "agentlightning.span_sequence_id": 1,
    }
    assert (span.kind, span.status.code, span.status.message) == (3, 2, "broke")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_700_000_000_500_000_000, 1_700_000_001 * 10**9)
    assert [(event.name, attributes(event.attributes)) for event in span.events] == [("moment", {"n": 1})]
    assert [(link.trace_id.hex(), attributes(link.attributes)) for link in span.links] == [
        ("ab" * 16, {"why": "because"})
    ]
    assert attributes(resource.attributes) == {"service.name": "agent", "host": "here"}


def test_many_spans_are_written_as_protobuf_itself_would_write_them() -> None:
    spans = [agl.Span.from_attributes(rollout_id="ro", attempt_id="at", attributes={"n": n}) for n in range(300)]
    for number, span in enumerate(spans):
        span.resource.attributes["service.name"] = f"service {number % 2}"

    request = ExportTraceServiceRequest.FromString(
        request_of(encoded(span.model_dump_json().encode()) for span in spans)
    )

    groups = {attributes(group.resource.attributes)["service.name"]: group for group in request.resource_spans}
    assert list(groups) == ["service 0", "service 1"]
    for number, group in enumerate(groups.values()):
        [scope] = group.scope_spans
        assert scope.scope.name == "agentlightning"
        assert [attributes(span.attributes)["n"] for span in scope.spans] == list(range(number, 300, 2))


async def test_ids_that_are_not_opentelemetrys_become_such_and_still_belong_together(receiver: Receiver) -> None:
    async with exporting(receiver) as live:
        await live.add("parent", trace_id="my trace", span_id="one")
        await live.add("child", trace_id="my trace", span_id="two", parent_id="one")
        receiver.wait_for(2)

    parent, child = receiver.spans
    assert (len(parent.trace_id), len(parent.span_id)) == (16, 8)
    assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)


async def test_a_target_that_is_busy_slows_nobody_and_gets_everything_later(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.rule = lambda spans: (503, b"")
    async with exporting(receiver) as live:
        for number in range(20):
            await live.add(f"span {number}")
        assert receiver.spans == []  # nobody has waited for it to take them
        receiver.wait_until(lambda receiver: receiver.refusals >= 2)
        seen = await live.metrics()
        assert seen['agl_export_waiting_spans{target="there"}'] == 20
        assert seen['agl_export_failures_total{target="there"}'] >= 1

        receiver.rule = lambda spans: taken()
        receiver.wait_for(20)
        await live.add("one more")
        receiver.wait_for(21)

    assert receiver.names == [*(f"span {number}" for number in range(20)), "one more"]
    assert caplog.text.count("Spans for there wait in the store: the target returned 503") == 1
    assert "there accepts spans again" in caplog.text


@pytest.mark.parametrize("status", [429, 503, 401])
async def test_a_target_that_takes_nothing_just_now_is_asked_again(receiver: Receiver, status: int) -> None:
    receiver.rule = lambda spans: (status, b"") if not receiver.refusals else taken()
    async with exporting(receiver) as live:
        await live.add("a", "b")
        receiver.wait_for(2)

    assert receiver.names == ["a", "b"]


async def test_a_store_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    receiver = Receiver()
    database = tmp_path / "agl.db"
    with receiver:
        async with exporting(receiver, database=database) as live:
            await live.add("a", "b")
            receiver.wait_for(2)
    async with exporting(receiver, database=database) as live:
        await live.add("c", "d")
    with receiver:
        async with exporting(receiver, database=database) as live:
            await live.add("e")
            receiver.wait_for(5)

    assert receiver.names == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("past", "names"), [(False, ["new"]), (True, ["old", "new"])])
async def test_a_new_target_is_told_of_what_comes_or_of_everything(
    receiver: Receiver, tmp_path: Path, past: bool, names: list[str]
) -> None:
    database = tmp_path / "agl.db"
    async with exporting(database=database) as live:
        await live.add("old")
    async with exporting(receiver, database=database, past=past) as live:
        await live.add("new")
        receiver.wait_until(lambda receiver: "new" in receiver.names)

    assert receiver.names == names


async def test_what_waits_is_sent_before_the_store_ends(receiver: Receiver) -> None:
    async with exporting(receiver) as live:
        await live.add(*(f"span {number}" for number in range(600)))

    assert len(receiver.spans) == 600


async def test_one_span_that_is_refused_costs_no_other(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.rule = lambda spans: (400, b"no poison") if any(span.name == "poison" for span in spans) else taken()
    async with exporting(receiver) as live:
        await live.add("a", "poison", "b", "c")
        receiver.wait_for(3)
        await live.add("d")
        receiver.wait_for(4)
        seen = await live.metrics()

    assert receiver.names == ["a", "b", "c", "d"]
    assert seen['agl_export_rejected_spans_total{target="there"}'] == 1
    assert "there rejects 1 span: 400: no poison" in caplog.text


async def test_a_target_that_has_never_taken_any_costs_none(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.rule = lambda spans: (422, b"the header x-experiment is missing")
    async with exporting(receiver) as live:
        await live.add("a", "b", "c")
        receiver.wait_until(lambda receiver: receiver.refusals >= 4)  # all, each
        receiver.rule = lambda spans: taken()
        receiver.wait_for(3)
        seen = await live.metrics()

    assert receiver.names == ["a", "b", "c"]
    assert seen['agl_export_rejected_spans_total{target="there"}'] == 0
    assert "Spans for there wait in the store: the target has accepted no span yet, 422: the header x-experiment" in caplog.text


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_bad_span_that_goes_first_and_alone_costs_no_other(
    receiver: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_BATCH_SPANS", 1)  # as if each were large
    receiver.rule = lambda spans: (status, b"") if spans[0].name == "poison" else taken()
    async with exporting(receiver) as live:
        await live.add("poison", "a", "b")
        receiver.wait_for(2)
        await live.add("c")
        receiver.wait_for(3)
        seen = await live.metrics()

    assert receiver.names == ["a", "b", "c"]
    assert seen['agl_export_rejected_spans_total{target="there"}'] == 1


async def test_a_target_that_takes_none_is_asked_little_and_gets_each_once(receiver: Receiver) -> None:
    sizes = list[int]()
    receiver.rule = lambda spans: sizes.append(len(spans)) or (422, b"the header x-experiment is missing")
    names = [f"span {number}" for number in range(300)]
    async with exporting(receiver) as live:
        await live.add(*names)
        receiver.wait_until(lambda receiver: sizes.count(256) == 2)
        assert sizes[: sizes.index(256, 1)] == [256, *[1] * export.MAX_PROBES]

        receiver.rule = lambda spans: (422, b"") if any(span.name == names[0] for span in spans) else taken()
        receiver.wait_for(299)
        seen = await live.metrics()

    assert sorted(receiver.names) == sorted(names[1:])
    assert seen['agl_export_rejected_spans_total{target="there"}'] == 1


async def test_what_a_target_rejects_of_a_batch_is_counted(receiver: Receiver) -> None:
    receiver.rule = lambda spans: taken(1, "too old") if spans[0].name == "a" else taken()
    async with exporting(receiver) as live:
        await live.add("a", "b", "c")
        receiver.wait_for(3)
        await live.add("d")
        receiver.wait_for(4)
        seen = await live.metrics()

    assert seen['agl_export_rejected_spans_total{target="there"}'] == 1


async def test_a_target_that_is_away_holds_up_no_other(receiver: Receiver) -> None:
    away = OtlpTarget.parse("away=http://127.0.0.1:9")
    async with exporting(away, receiver) as live:
        await live.add("a")
        receiver.wait_for(1)
        seen = await live.metrics()

    assert seen['agl_export_waiting_spans{target="away"}'] == 1


async def test_headers_reach_the_target_and_nothing_else(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target = OtlpTarget.parse(f"there={receiver.url}", parse_headers(f"Authorization=Basic%20{PLANTED},x-project=mine"))
    receiver.rule = lambda spans: (503, b"") if not receiver.refusals else taken()
    async with exporting(target, database=tmp_path / "agl.db") as live:
        await live.add("a")
        receiver.wait_for(1)

    assert receiver.headers[0]["authorization"] == f"Basic {PLANTED}"
    assert receiver.headers[0]["x-project"] == "mine"
    assert PLANTED.encode() not in everything_in(tmp_path) + caplog.text.encode() + repr(target).encode()


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_spans_that_get_the_ordinals_of_deleted_ones_are_sent_too(receiver: Receiver, tmp_path: Path) -> None:
    async with exporting(receiver, database=tmp_path / "agl.db") as live:
        await live.add("a", "b", "c")
        receiver.wait_for(3)
        await live.store.update_rollout(live.attempted.rollout_id, status="cancelled")
        assert await live.store.delete_ended_before(time.time() + 60, 10) == 1
        live.attempted = await live.store.start_rollout("another task")
        await live.add("d", "e")
        receiver.wait_for(5)

    assert receiver.names == ["a", "b", "c", "d", "e"]


async def test_spans_that_are_deleted_while_they_are_sent_cost_no_later_one(receiver: Receiver, tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slowly(_: Any) -> Any:
        asked.set()
        assert go_on.wait(TIMEOUT)
        return taken()

    receiver.rule = slowly
    async with exporting(receiver, database=tmp_path / "agl.db") as live:
        await live.add("a", "b", "c")
        assert await asyncio.to_thread(asked.wait, TIMEOUT)
        await live.store.update_rollout(live.attempted.rollout_id, status="cancelled")
        assert await live.store.delete_ended_before(time.time() + 60, 10) == 1
        live.attempted = await live.store.start_rollout("another task")
        await live.add("d", "e")
        go_on.set()
        receiver.wait_until(lambda receiver: "e" in receiver.names)

    assert receiver.names == ["a", "b", "c", "d", "e"]


async def test_commits_that_overtake_each_other_cost_no_span(receiver: Receiver) -> None:
    async with empty_database() as url:
        target = OtlpTarget.parse(f"there={receiver.url}")
        store = PostgresLightningStore(url)
        server = agl.LightningStoreServer(store, port=0, exporter=OtlpExporter(store, [target]))
        await server.start()
        live = Live(store, server)
        live.attempted = await store.start_rollout("task")
        connection = await asyncpg.connect(url)
        # Another store server in the middle of its commit: it has taken its ordinal, and is slow.
        slow = connection.transaction()
        await slow.start()
        early = live.span("early")
        await connection.execute("SELECT pg_current_xact_id()")
        await connection.execute(
            "INSERT INTO spans (rollout_id, attempt_id, sequence_id, trace_id, span_id, name, payload) "
            "VALUES ($1, $2, 7, $3, $4, 'early', $5)",
            *(early.rollout_id, early.attempt_id, early.trace_id, early.span_id, early.model_dump_json().encode()),
        )
        await live.add("late")
        assert (await store.span_watermark()).ordinal == 2
        horizon = await store.span_watermark()
        assert not await store.is_settled(horizon)
        await slow.commit()
        assert await store.is_settled(horizon)
        await connection.close()
        receiver.wait_for(2)
        await server.close()

    assert receiver.names == ["early", "late"]


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("phoenix=http://localhost:6006", "phoenix", "http://localhost:6006/v1/traces"),
        ("http://localhost:4318", "localhost:4318", "http://localhost:4318/v1/traces"),
        ("lf=https://host/api/public/otel/", "lf", "https://host/api/public/otel/v1/traces"),
        ("https://host/v1/traces?a=b", "host", "https://host/v1/traces?a=b"),
    ],
)
def test_a_target_is_a_url_and_may_have_a_name(text: str, name: str, url: str) -> None:
    assert (OtlpTarget.parse(text).name, OtlpTarget.parse(text).url) == (name, url)


@pytest.mark.parametrize("text", ["localhost:4318", "x=ftp://host", "http://me:secret@host", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        OtlpTarget.parse(text)

    assert "secret" not in str(refused.value)


def test_two_targets_need_two_names() -> None:
    target = OtlpTarget.parse("http://host")
    with pytest.raises(InvalidInput, match="write NAME=URL"):
        OtlpExporter(None, [target, target])  # type: ignore[arg-type]
