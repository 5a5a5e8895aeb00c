"""Export over OTLP: every span, in order, whatever the receiver does, without a delay of the store."""

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
from agentlightning.retry import RetryPolicy
from agentlightning.store import PostgresLightningStore
from agentlightning.store.otlp import export
from agentlightning.store.otlp.encode import encode_span
from agentlightning.store.otlp.export import OtlpExporter, OtlpTarget, parse_headers
from agentlightning.types import Event, Link, OtelResource, SpanContext, TraceStatus
from tests.otlp_receiver import Receiver, accepted
from tests.postgres import empty_database
from tests.processes import TIMEOUT

TRACE = "5b8efff798038103d269b633813fc60c"
SECRET = "sk-lf-planted-0123456789abcdef"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(export, "RETRY", RetryPolicy(first_delay=0.02, max_delay=0.1))


class ExportingServer:
    """A store server that exports its spans, with one running attempt."""

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

    async def replace_attempt(self) -> None:
        """Delete the attempt with its spans, and start another one."""
        await self.store.update_rollout(self.attempted.rollout_id, status="cancelled")
        assert await self.store.delete_ended_before(time.time() + 60, 10) == 1
        self.attempted = await self.store.start_rollout("another task")

    async def metric(self, name: str, target: str = "there") -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.server.endpoint}/metrics") as response:
            lines = (await response.text()).splitlines()
        return next(
            float(line.split()[1]) for line in lines if line.startswith(f'agl_export_{name}{{target="{target}"')
        )


@asynccontextmanager
async def exporting(
    *targets: OtlpTarget | Receiver, database: str | Path = "memory:", past: bool = False
) -> AsyncIterator[ExportingServer]:
    parsed = [each if isinstance(each, OtlpTarget) else OtlpTarget.parse(f"there={each.url}") for each in targets]
    store: Any = agl.open_store(str(database))
    exporter = OtlpExporter(store, parsed, past=past) if parsed else None
    server = agl.LightningStoreServer(store, port=0, exporter=exporter)
    await server.start()
    try:
        served = ExportingServer(store, server)
        served.attempted = await store.start_rollout("task")
        yield served
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


# Encoding


async def test_span_arrives_with_all_of_its_fields(receiver: Receiver) -> None:
    given = {"text": "é", "yes": True, "count": 3, "share": 0.5, "words": ["a", "b"], "deep": {"a": [1]}, "big": 2**63}
    context = SpanContext(trace_id="ab" * 16, span_id="cd" * 8)
    async with exporting(receiver) as served:
        await served.add(
            "step",
            attributes={**given, "gen_ai.request.model": "m"},
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
        **given,
        "big": str(2**63),
        "gen_ai.request.model": "m",
        "agentlightning.rollout_id": served.attempted.rollout_id,
        "agentlightning.attempt_id": served.attempted.attempt.attempt_id,
        "agentlightning.span_sequence_id": 1,
    }
    assert (span.kind, span.status.code, span.status.message) == (3, 2, "broke")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_700_000_000_500_000_000, 1_700_000_001 * 10**9)
    assert [(event.name, attributes(event.attributes)) for event in span.events] == [("moment", {"n": 1})]
    assert [(link.trace_id.hex(), attributes(link.attributes)) for link in span.links] == [
        ("ab" * 16, {"why": "because"})
    ]
    assert attributes(resource.attributes) == {"service.name": "agent", "host": "here"}


def test_concatenated_spans_are_one_request_in_order() -> None:
    spans = [agl.Span.from_attributes(rollout_id="ro", attempt_id="at", attributes={"n": n}) for n in range(300)]

    body = b"".join(encode_span(span.model_dump_json().encode()) for span in spans)

    scopes = [group.scope_spans[0] for group in ExportTraceServiceRequest.FromString(body).resource_spans]
    assert {scope.scope.name for scope in scopes} == {"agentlightning"}
    assert [attributes(scope.spans[0].attributes)["n"] for scope in scopes] == list(range(300))


async def test_foreign_ids_become_opentelemetry_ids_that_keep_parents_and_traces(receiver: Receiver) -> None:
    async with exporting(receiver) as served:
        await served.add("parent", trace_id="my trace", span_id="one")
        await served.add("child", trace_id="my trace", span_id="two", parent_id="one")
        receiver.wait_for(2)

    parent, child = receiver.spans
    assert (len(parent.trace_id), len(parent.span_id)) == (16, 8)
    assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)


# Outages


async def test_unavailable_target_delays_no_call_and_receives_everything_later(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.rule = lambda spans: (503, b"")
    async with exporting(receiver) as served:
        for number in range(20):
            await served.add(f"span {number}")
        assert receiver.spans == []
        receiver.wait_until(lambda receiver: receiver.rejections >= 2)
        assert await served.metric("waiting_spans") == 20
        assert await served.metric("failures_total") >= 1

        receiver.rule = lambda spans: accepted()
        receiver.wait_for(20)
        await served.add("one more")
        receiver.wait_for(21)

    assert receiver.names == [*(f"span {number}" for number in range(20)), "one more"]
    assert caplog.text.count("Spans for there remain in the store and will be sent again: the target returned 503") == 1
    assert "there is accepting spans again" in caplog.text


@pytest.mark.parametrize("status", [429, 401])
async def test_transient_status_is_retried(receiver: Receiver, status: int) -> None:
    receiver.rule = lambda spans: (status, b"") if not receiver.rejections else accepted()
    async with exporting(receiver) as served:
        await served.add("a", "b")
        receiver.wait_for(2)

    assert receiver.names == ["a", "b"]


async def test_unreachable_target_delays_no_other(receiver: Receiver) -> None:
    async with exporting(OtlpTarget.parse("away=http://127.0.0.1:9"), receiver) as served:
        await served.add("a")
        receiver.wait_for(1)

        assert await served.metric("waiting_spans", "away") == 1


async def test_restarted_store_continues_at_its_position(tmp_path: Path) -> None:
    receiver = Receiver()
    database = tmp_path / "agl.db"
    with receiver:
        async with exporting(receiver, database=database) as served:
            await served.add("a", "b")
            receiver.wait_for(2)
    async with exporting(receiver, database=database) as served:
        await served.add("c", "d")
    with receiver:
        async with exporting(receiver, database=database) as served:
            await served.add("e")
            receiver.wait_for(5)

    assert receiver.names == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("past", "names"), [(False, ["new"]), (True, ["old", "new"])])
async def test_new_target_receives_stored_spans_only_with_past(
    receiver: Receiver, tmp_path: Path, past: bool, names: list[str]
) -> None:
    database = tmp_path / "agl.db"
    async with exporting(database=database) as served:
        await served.add("old")
    async with exporting(receiver, database=database, past=past) as served:
        await served.add("new")
        receiver.wait_until(lambda receiver: "new" in receiver.names)

    assert receiver.names == names


async def test_stop_sends_pending_spans_and_then_returns_at_once(receiver: Receiver) -> None:
    async with exporting(receiver) as served:
        await served.add(*(f"span {number}" for number in range(600)))
        stopped = time.monotonic()

    assert len(receiver.spans) == 600
    assert time.monotonic() - stopped < export.DRAIN_SECONDS


# Rejections


async def test_rejected_span_does_not_block_others(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.rule = lambda spans: (400, b"no poison") if any(span.name == "poison" for span in spans) else accepted()
    async with exporting(receiver) as served:
        await served.add("a", "poison", "b", "c")
        receiver.wait_for(3)
        await served.add("d")
        receiver.wait_for(4)
        assert await served.metric("rejected_spans_total") == 1

    assert receiver.names == ["a", "b", "c", "d"]
    assert "there rejects 1 span: 400: no poison" in caplog.text


async def test_target_that_has_accepted_no_span_loses_none(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.rule = lambda spans: (422, b"the header x-experiment is missing")
    async with exporting(receiver) as served:
        await served.add("a", "b", "c")
        receiver.wait_until(lambda receiver: receiver.rejections >= 4)  # the batch, and a probe of each
        receiver.rule = lambda spans: accepted()
        receiver.wait_for(3)
        assert await served.metric("rejected_spans_total") == 0

    assert receiver.names == ["a", "b", "c"]
    assert (
        "remain in the store and will be sent again: the target has not accepted any spans yet, "
        "422: the header x-experiment" in caplog.text
    )


@pytest.mark.parametrize("status", [400, 413])
async def test_rejected_span_alone_in_the_first_batch_does_not_block_others(
    receiver: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_BATCH_SPANS", 1)  # as for large spans
    receiver.rule = lambda spans: (status, b"") if spans[0].name == "poison" else accepted()
    async with exporting(receiver) as served:
        await served.add("poison", "a", "b")
        receiver.wait_for(2)
        await served.add("c")
        receiver.wait_for(3)
        assert await served.metric("rejected_spans_total") == 1

    assert receiver.names == ["a", "b", "c"]


async def test_target_that_rejects_everything_gets_few_probes_and_then_each_span_once(receiver: Receiver) -> None:
    sizes = list[int]()
    receiver.rule = lambda spans: sizes.append(len(spans)) or (422, b"the header x-experiment is missing")
    names = [f"span {number}" for number in range(300)]
    async with exporting(receiver) as served:
        await served.add(*names)
        receiver.wait_until(lambda receiver: sizes.count(256) == 2)
        assert sizes[: sizes.index(256, 1)] == [256, *[1] * export.MAX_PROBES]

        receiver.rule = lambda spans: (422, b"") if any(span.name == names[0] for span in spans) else accepted()
        receiver.wait_for(299)
        assert await served.metric("rejected_spans_total") == 1

    assert sorted(receiver.names) == sorted(names[1:])


async def test_partial_rejection_is_counted(receiver: Receiver) -> None:
    receiver.rule = lambda spans: accepted(1, "too old") if spans[0].name == "a" else accepted()
    async with exporting(receiver) as served:
        await served.add("a", "b", "c")
        receiver.wait_for(3)
        await served.add("d")
        receiver.wait_for(4)

        assert await served.metric("rejected_spans_total") == 1


async def test_headers_reach_the_target_only(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = parse_headers(f"Authorization=Basic%20{SECRET},x-project=mine")
    target = OtlpTarget.parse(f"there={receiver.url}", headers)
    receiver.rule = lambda spans: (503, b"") if not receiver.rejections else accepted()
    async with exporting(target, database=tmp_path / "agl.db") as served:
        await served.add("a")
        receiver.wait_for(1)

    assert receiver.headers[0]["authorization"] == f"Basic {SECRET}"
    assert receiver.headers[0]["x-project"] == "mine"
    assert SECRET.encode() not in content_of(tmp_path) + caplog.text.encode() + repr(target).encode()


def content_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


# Positions


async def test_spans_that_reuse_ordinals_of_deleted_spans_are_sent(receiver: Receiver, tmp_path: Path) -> None:
    async with exporting(receiver, database=tmp_path / "agl.db") as served:
        await served.add("a", "b", "c")
        receiver.wait_for(3)
        await served.replace_attempt()
        await served.add("d", "e")
        receiver.wait_for(5)

    assert receiver.names == ["a", "b", "c", "d", "e"]


async def test_deleting_spans_during_their_export_loses_no_later_span(receiver: Receiver, tmp_path: Path) -> None:
    requested, proceed = threading.Event(), threading.Event()

    def accept_slowly(_: Any) -> Any:
        requested.set()
        assert proceed.wait(TIMEOUT)
        return accepted()

    receiver.rule = accept_slowly
    async with exporting(receiver, database=tmp_path / "agl.db") as served:
        await served.add("a", "b", "c")
        assert await asyncio.to_thread(requested.wait, TIMEOUT)
        await served.replace_attempt()
        await served.add("d", "e")
        proceed.set()
        receiver.wait_until(lambda receiver: "e" in receiver.names)

    assert receiver.names == ["a", "b", "c", "d", "e"]


async def test_commit_that_overtakes_an_earlier_one_loses_no_span(receiver: Receiver) -> None:
    async with empty_database() as url:
        store = PostgresLightningStore(url)
        exporter = OtlpExporter(store, [OtlpTarget.parse(f"there={receiver.url}")])
        server = agl.LightningStoreServer(store, port=0, exporter=exporter)
        await server.start()
        served = ExportingServer(store, server)
        served.attempted = await store.start_rollout("task")
        connection = await asyncpg.connect(url)
        # Another store server has taken its ordinal, but has not committed yet.
        slow = connection.transaction()
        await slow.start()
        early = served.span("early")
        await connection.execute("SELECT pg_current_xact_id()")
        await connection.execute(
            "INSERT INTO spans (rollout_id, attempt_id, sequence_id, trace_id, span_id, name, payload) "
            "VALUES ($1, $2, 7, $3, $4, 'early', $5)",
            *(early.rollout_id, early.attempt_id, early.trace_id, early.span_id, early.model_dump_json().encode()),
        )
        await served.add("late")
        watermark = await store.span_watermark()
        assert watermark.ordinal == 2
        assert not await store.is_settled(watermark)
        await slow.commit()
        assert await store.is_settled(watermark)
        await connection.close()
        receiver.wait_for(2)
        await server.close()

    assert receiver.names == ["early", "late"]


# Targets


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("phoenix=http://localhost:6006", "phoenix", "http://localhost:6006/v1/traces"),
        ("http://localhost:4318", "localhost:4318", "http://localhost:4318/v1/traces"),
        ("lf=https://host/api/public/otel/", "lf", "https://host/api/public/otel/v1/traces"),
        ("https://host/v1/traces?a=b", "host", "https://host/v1/traces?a=b"),
    ],
)
def test_target_is_a_url_with_an_optional_name(text: str, name: str, url: str) -> None:
    assert OtlpTarget.parse(text) == OtlpTarget(name, url)


@pytest.mark.parametrize("text", ["localhost:4318", "x=ftp://host", "http://me:secret@host", ""])
def test_invalid_target_is_rejected(text: str) -> None:
    with pytest.raises(InvalidInput) as rejected:
        OtlpTarget.parse(text)

    assert "secret" not in str(rejected.value)


def test_targets_with_the_same_name_are_rejected() -> None:
    target = OtlpTarget.parse("http://host")
    with pytest.raises(InvalidInput, match="write NAME=URL"):
        OtlpExporter(None, [target, target])  # type: ignore[arg-type]
