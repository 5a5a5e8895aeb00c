"""Attempt tokens and shared traces: which spans may be sent over OTLP, until when, and for which attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

import agentlightning as agl
from agentlightning.attempt_tokens import attempt_token, derive_secret
from agentlightning.http.limits import Limits
from agentlightning.store import lifecycle
from agentlightning.store.maintenance import collect_garbage
from agentlightning.types import AttemptedRollout

from .raw import RawResponse
from .test_otlp import TOKEN, OtlpServer, ids, serving, span


def token_of(attempted: AttemptedRollout) -> str:
    return attempt_token(derive_secret(TOKEN), attempted.rollout_id, attempted.attempt.attempt_id)


def bearer(attempted: AttemptedRollout) -> str:
    return f"Bearer {token_of(attempted)}"


def reason(answer: RawResponse) -> str:
    assert answer.status == 200
    return answer.json.get("partialSuccess", {}).get("errorMessage", "")


@pytest.fixture
async def protected() -> AsyncIterator[OtlpServer]:
    async with serving(TOKEN) as served:
        yield served


@pytest.fixture
async def served() -> AsyncIterator[OtlpServer]:
    async with serving() as served:
        yield served


# Tokens are checked before the body is read


async def refusal(served: OtlpServer, token: str, path: str = "/v1/traces", *more: str) -> bytes:
    """Send the headers of a request without its body, and return the response."""
    url = urlsplit(served.server.endpoint)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    lines = [f"POST {path} HTTP/1.1", f"Host: {url.netloc}", f"Authorization: Bearer {token}", *more]
    writer.write("\r\n".join([*lines, "Content-Length: 16000000", "", ""]).encode())
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("more", [(), ("Expect: 100-continue",), ("Content-Encoding: gzip",)], ids=str)
async def test_forged_token_gets_401_before_the_body_is_sent(protected: OtlpServer, more: tuple[str, ...]) -> None:
    token = token_of(protected.attempted)
    foreign = attempt_token(derive_secret("another" * 5), *ids(protected.attempted).values())

    for forged in ("agl-attempt-x", f"agl-attempt-{'0' * 48}", token[:-1], foreign):
        assert (await refusal(protected, forged, "/v1/traces", *more)).startswith(b"HTTP/1.1 401"), forged


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/traces/", "/V1/traces", "//v1/traces", "/v1/traces%2F", "/v1/traces%0A", "/v1%2ftraces/x"),
        *("/batch", "/add_many_spans", "/events", "/dashboard", "/health/"),
    ],
)
async def test_attempt_token_gets_401_before_the_body_on_other_paths(protected: OtlpServer, path: str) -> None:
    assert (await refusal(protected, token_of(protected.attempted), path)).startswith(b"HTTP/1.1 401")


# The life of a token


async def test_token_is_refused_before_the_body_when_its_rollout_is_deleted(protected: OtlpServer) -> None:
    attempted, store = protected.attempted, protected.store
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    assert (await protected.send(span(), Authorization=bearer(attempted))).json == {}

    await collect_garbage(store, -1)

    answer = await protected.send(span("bb" * 8), Authorization=bearer(attempted))
    assert (answer.status, "has been deleted" in answer.json["detail"]) == (401, True)
    assert (await refusal(protected, token_of(attempted))).startswith(b"HTTP/1.1 401")


async def test_token_expires_after_the_end_of_its_attempt() -> None:
    assert Limits().attempt_token_seconds == 24 * 3600
    async with serving(TOKEN, Limits(attempt_token_seconds=1e-6)) as served:
        attempted = served.attempted
        assert (await served.send(span(), Authorization=bearer(attempted))).json == {}
        await served.store.update_attempt(attempted.rollout_id, "latest", status="succeeded")

        answer = await served.send(span("bb" * 8), Authorization=bearer(attempted))

        assert (answer.status, "attempt_token_seconds" in answer.json["detail"]) == (401, True)
        assert (await refusal(served, token_of(attempted))).startswith(b"HTTP/1.1 401")
        assert await served.span_ids() == [span()["spanId"]]


# Shared traces


async def test_unlabelled_spans_belong_to_the_attempt_of_the_token(protected: OtlpServer) -> None:
    first, second = protected.attempted, await protected.store.start_rollout("second")
    await protected.send(span("11" * 8), Authorization=bearer(second))
    stray = await protected.send(span("22" * 8, **ids(second)), Authorization=bearer(first))
    await protected.send(span("33" * 8), span("44" * 8, **ids(first)), Authorization=bearer(first))

    assert "not valid for attempt" in reason(stray)
    assert await protected.span_ids(first) == ["33" * 8, "44" * 8]
    assert await protected.span_ids(second) == ["11" * 8]


async def test_labelled_span_does_not_attract_the_unlabelled_spans_of_another_attempt(served: OtlpServer) -> None:
    victim, thief = served.attempted, await served.store.start_rollout("thief")
    await served.send(span("11" * 8, **ids(victim)), span("22" * 8))

    same = await served.send(span("33" * 8, **ids(thief)), span("44" * 8))
    later = await served.send(span("55" * 8))

    assert "2 attempts share its trace" in reason(same)
    assert "agentlightning.attempt_id" in reason(later)
    assert await served.span_ids(victim) == ["11" * 8, "22" * 8]
    assert await served.span_ids(thief) == ["33" * 8]


async def test_unlabelled_span_belongs_to_the_only_live_attempt_of_its_trace(served: OtlpServer) -> None:
    ended, live = served.attempted, await served.store.start_rollout("retry")
    unknown = {"agentlightning.rollout_id": "ro-x", "agentlightning.attempt_id": "at-x"}
    await served.send(span("11" * 8, **ids(ended)), span("22" * 8, **ids(live)))
    await served.store.update_attempt(ended.rollout_id, "latest", status="succeeded")

    mixed = await served.send(span("33" * 8), span("44" * 8, **ids(ended)), span("55" * 8, **unknown))
    await served.send(span("66" * 8, "ab" * 16, **ids(ended)), span("77" * 8, "ab" * 16))

    assert "no attempt at-x" in reason(mixed)
    assert await served.span_ids(live) == ["22" * 8, "33" * 8]
    assert await served.span_ids(ended) == ["11" * 8, "44" * 8, "66" * 8, "77" * 8]


# The limit on late spans


async def test_spans_beyond_the_limit_of_late_ones_are_rejected_alone(
    served: OtlpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "MAX_LATE_SPANS", 2)
    ended, live = served.attempted, await served.store.start_rollout("live")
    await served.store.update_attempt(ended.rollout_id, "latest", status="succeeded")

    first = await served.send(span("11" * 8, **ids(ended)), span("22" * 8, **ids(ended)))
    second = await served.send(span("33" * 8, **ids(ended)), span("44" * 8, **ids(live)))

    assert first.json == {}
    assert second.json["partialSuccess"]["rejectedSpans"] == "1"
    assert "2 late spans" in reason(second)
    assert await served.span_ids(ended) == ["11" * 8, "22" * 8]
    assert await served.span_ids(live) == ["44" * 8]


async def test_tracer_drops_late_spans_beyond_the_limit_and_sends_the_others(
    served: OtlpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifecycle, "MAX_LATE_SPANS", 2)
    ended, live = served.attempted, await served.store.start_rollout("live")
    await served.store.update_attempt(ended.rollout_id, "latest", status="succeeded")

    async def trace(attempted: AttemptedRollout, count: int) -> None:
        named: dict[str, Any] = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
        async with tracer.trace_context(**named):
            for _ in range(count):
                tracer.create_span("step")

    tracer = agl.OtelTracer()
    async with agl.LightningStoreClient(served.server.endpoint) as client:
        with tracer.lifespan(client):
            await trace(ended, 2)
            await asyncio.gather(trace(ended, 3), trace(live, 3))

    assert tracer.dropped == 3
    assert "2 late spans" in caplog.text
    assert len(await served.span_ids(ended)) == 2
    assert len(await served.span_ids(live)) == 3
