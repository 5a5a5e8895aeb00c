"""Authorization of requests: every route with each token, and with the Host and Origin of foreign pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlightning.attempt_tokens import attempt_token, derive_secret
from agentlightning.errors import Forbidden, InvalidInput, Unauthorized
from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.store.http.auth import RUNNER_OPERATIONS
from agentlightning.types import LLM

from ..contract.making import everything, span
from ..faults.lossy import served
from .raw import ROUTES, Raw, RawResponse, plain_path

ADMIN, RUNNER = "agl-admin-" + "a" * 40, "agl-runner-" + "r" * 40
REQUESTS = {name: (route.method, plain_path(route)) for name, route in ROUTES.items()}
REQUESTS |= {name: ("GET", f"/{name}") for name in ("metrics", "openapi.json", "events")}
REQUESTS |= {"v1": ("POST", "/v1/traces"), "batch": ("POST", "/batch")}
EXPECTED_RUNNER_OPERATIONS = {
    *("dequeue_rollout", "dequeue_many_rollouts", "start_rollout", "start_attempt", "update_attempt", "update_worker"),
    *("add_span", "add_many_spans", "get_next_span_sequence_id", "get_many_span_sequence_ids", "v1"),
    *("get_resources_by_id", "get_latest_resources", "get_rollout_by_id", "get_latest_attempt", "get_worker_by_id"),
    *("query_attempts", "query_spans", "wait_for_rollouts", "batch"),
}


@pytest.fixture
async def protected() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), token=ADMIN, runner_token=RUNNER) as server:
        yield server


@pytest.fixture
async def protected_raw(protected: LightningStoreServer) -> AsyncIterator[Raw]:
    async with Raw(protected.endpoint) as raw:
        yield raw


@pytest.fixture
async def open_server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore(), allowed_hosts=["store.example"]) as server:
        yield server


@pytest.fixture
async def open_raw(open_server: LightningStoreServer) -> AsyncIterator[Raw]:
    async with Raw(open_server.endpoint) as raw:
        yield raw


async def send(raw: Raw, name: str, **headers: Any) -> RawResponse:
    """Send an empty request, which is invalid or without effect where it is permitted."""
    method, path = REQUESTS[name]
    if name == "events":  # its response does not end
        return await raw.send("HEAD", path, **headers)
    return await raw.send(method, path, b"{}" if method == "POST" else None, **headers)


# Tokens


async def test_admin_token_permits_every_route(protected_raw: Raw) -> None:
    for name in REQUESTS:
        assert (await send(protected_raw, name, Authorization=f"Bearer {ADMIN}")).status not in (401, 403), name


async def test_runner_token_permits_runner_operations_only(protected_raw: Raw) -> None:
    assert RUNNER_OPERATIONS == EXPECTED_RUNNER_OPERATIONS
    for name in REQUESTS:
        answer = await send(protected_raw, name, Authorization=f"Bearer {RUNNER}")
        assert (answer.status != 403) == (name in EXPECTED_RUNNER_OPERATIONS), name
        assert answer.status != 401, name


async def test_runner_token_permits_no_more_in_a_batch(protected_raw: Raw) -> None:
    names = [name for name in ROUTES if name != "wait_for_rollouts"]
    body = json.dumps({"operations": [{"operation": name} for name in names]}).encode()
    answer = await protected_raw.send("POST", "/batch", body, Authorization=f"Bearer {RUNNER}")

    statuses = dict(zip(names, [each["status"] for each in answer.json["answers"]], strict=True))
    assert {name for name, status in statuses.items() if status == 403} == set(names) - EXPECTED_RUNNER_OPERATIONS


async def test_attempt_token_permits_otlp_only(protected: LightningStoreServer, protected_raw: Raw) -> None:
    attempt = (await protected.start_rollout("task")).attempt
    token = attempt_token(derive_secret(ADMIN), attempt.rollout_id, attempt.attempt_id)
    for name in REQUESTS:
        answer = await send(protected_raw, name, Authorization=f"Bearer {token}")
        assert (answer.status != 401) == (name == "v1"), name


async def test_no_route_but_health_is_open_without_a_token(protected_raw: Raw) -> None:
    for name in REQUESTS:
        assert (await send(protected_raw, name)).status == 401, name
    assert (await protected_raw.send("GET", "/health")).status == 200


@pytest.mark.parametrize("token", ["", "wrong", ADMIN[:-1], ADMIN + "a", RUNNER[:-1], "agl-attempt-x"])
async def test_similar_tokens_permit_nothing(protected_raw: Raw, token: str) -> None:
    for name in ("enqueue_rollout", "dequeue_rollout", "metrics"):
        assert (await send(protected_raw, name, Authorization=f"Bearer {token}")).status == 401, name


async def test_runner_client_executes_rollouts_and_gets_forbidden_otherwise(protected: LightningStoreServer) -> None:
    async with (
        LightningStoreClient(protected.endpoint, token=ADMIN) as admin,
        LightningStoreClient(protected.endpoint, token=RUNNER) as runner,
    ):
        await admin.add_resources({"llm": LLM(endpoint="http://h/v1", model="m", api_key="secret")})
        await admin.enqueue_rollout("task")
        attempted = await runner.dequeue_rollout(worker_id="w")
        assert attempted is not None
        resources = await runner.get_latest_resources()
        assert resources is not None
        assert resources.resources["llm"].api_key == "secret"  # pyright: ignore
        await runner.add_span(span(attempted))
        await runner.update_worker("w")
        await runner.update_attempt(attempted.rollout_id, "latest", status="succeeded")

        with pytest.raises(Forbidden, match="runner token"):
            await runner.enqueue_rollout("mine")
        assert (await admin.statistics())["rollouts"] == {"succeeded": 1}


async def test_wrong_token_raises_an_error_with_a_remedy(protected: LightningStoreServer) -> None:
    async with LightningStoreClient(protected.endpoint, token="wrong-" + "w" * 40) as client:
        with pytest.raises(Unauthorized, match="AGL_TOKEN"):
            await client.statistics()


def test_runner_token_requires_an_admin_token() -> None:
    with pytest.raises(InvalidInput, match="admin"):
        LightningStoreServer(InMemoryLightningStore(), runner_token=RUNNER)


# Host and Origin


async def test_foreign_page_reaches_no_route_and_changes_nothing(open_server: LightningStoreServer) -> None:
    """A store on loopback needs no token, so a page in a browser could otherwise drain it with images."""
    await open_server.enqueue_rollout("precious")
    before = await everything(open_server)
    async with Raw(open_server.endpoint) as raw:
        for name in REQUESTS:
            for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
                answer = await send(raw, name, **headers)
                assert (name, answer.status) == (name, 403)
                assert "precious" not in answer.text

    assert await everything(open_server) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example:4747"},
        {"Host": "localhost.evil.example"},
    ],
    ids=str,
)
async def test_request_with_headers_of_a_foreign_page_is_refused(open_raw: Raw, headers: dict[str, str]) -> None:
    assert (await send(open_raw, "dequeue_rollout", **headers)).status == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:4747", "127.0.0.1:1", "[::1]:4747", "store.example", "store.example:80"]
)
async def test_own_host_names_and_pages_are_accepted(open_raw: Raw, host: str) -> None:
    own_page: dict[str, Any] = {"Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}

    assert (await open_raw.send("GET", "/statistics", Host=host)).status == 200
    assert (await open_raw.send("GET", "/statistics", Host=host, **own_page)).status == 200


async def test_cors_preflight_is_refused(open_raw: Raw) -> None:
    preflight: dict[str, Any] = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    answer = await open_raw.send("OPTIONS", "/enqueue_rollout", **preflight)

    assert answer.status == 403
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)


async def test_state_changing_get_needs_a_header_that_pages_cannot_send(open_server: LightningStoreServer) -> None:
    """A browser omits Sec-Fetch-Site in requests to a plain HTTP host other than localhost, and Origin in each GET."""
    await open_server.enqueue_rollout("precious")
    attempt = (await open_server.start_rollout("task")).attempt
    before = await everything(open_server)
    paths = ("/dequeue_rollout", f"/get_next_span_sequence_id/{attempt.rollout_id}/{attempt.attempt_id}")
    attacks: list[dict[str, Any]] = [
        {},
        {"X_Agentlightning": "0"},
        {"X_Agentlightning": "1", "Origin": "http://evil.example"},
    ]
    async with Raw(open_server.endpoint) as raw:
        for path in paths:
            for headers in attacks:
                answer = await raw.send("GET", path, **headers, Host="store.example")
                assert answer.status == 403
                assert "Origin" in headers or "X-Agentlightning: 1" in answer.json["detail"]
        assert await everything(open_server) == before

        for path in paths:
            assert (await raw.send("GET", path, X_Agentlightning="1", Host="store.example")).status == 200
        assert (await raw.send("GET", "/statistics", Host="store.example")).status == 200


async def test_client_sends_the_header_that_state_changing_gets_need(open_server: LightningStoreServer) -> None:
    await open_server.enqueue_rollout("task")
    async with LightningStoreClient(open_server.endpoint) as client:
        claimed = await client.dequeue_rollout()
        assert claimed is not None
        assert await client.get_next_span_sequence_id(claimed.rollout_id, claimed.attempt.attempt_id) == 1


@pytest.mark.parametrize("settings", [{}, {"token": ADMIN, "allowed_hosts": ["store.example"]}], ids=str)
async def test_loopback_and_token_need_no_further_header(settings: dict[str, Any]) -> None:
    async with served(InMemoryLightningStore(), **settings) as server, Raw(server.endpoint) as raw:
        await server.enqueue_rollout("task")

        answer = await raw.send("GET", "/dequeue_rollout", Authorization=f"Bearer {ADMIN}")

        assert (answer.status, answer.json["input"]) == (200, "task")
