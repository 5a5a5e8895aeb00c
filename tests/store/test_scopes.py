"""Who may do what: each route with each token, from each kind of page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from agentlightning.attempt_tokens import attempt_token, secret_of
from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.store.http.auth import RUNNERS_MAY

from .raw import ROUTES, Answer, Raw

ADMIN, RUNNER = "agl-admin-" + "a" * 40, "agl-runner-" + "r" * 40
ATTEMPT = attempt_token(secret_of(ADMIN), "ro-1", "at-1")
BESIDE = {name: ("GET", f"/{name}") for name in ("metrics", "openapi.json", "events")}
EVERYTHING = {name: (route.method, route.path.replace("{", "").replace("}", "")) for name, route in ROUTES.items()}
EVERYTHING |= BESIDE | {"v1": ("POST", "/v1/traces"), "batch": ("POST", "/batch")}
RUNNERS_NEED = {
    *("dequeue_rollout", "dequeue_many_rollouts", "start_rollout", "start_attempt", "update_attempt", "update_worker"),
    *("add_span", "add_many_spans", "get_next_span_sequence_id", "get_many_span_sequence_ids", "v1"),
    *("get_resources_by_id", "get_latest_resources", "get_rollout_by_id", "get_latest_attempt", "get_worker_by_id"),
    *("query_attempts", "query_spans", "wait_for_rollouts", "batch"),
}


@pytest.fixture
async def guarded() -> AsyncIterator[Raw]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0, token=ADMIN, runner_token=RUNNER)
    await server.start()
    async with Raw(server.endpoint) as raw:
        yield raw
    await server.close()


@pytest.fixture
async def unguarded() -> AsyncIterator[Raw]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0, allowed_hosts=["store.example"])
    await server.start()
    async with Raw(server.endpoint) as raw:
        yield raw
    await server.close()


async def ask(raw: Raw, name: str, **headers: str) -> Answer:
    """An empty request, which whoever may come in is told is not valid, or gets nothing for."""
    method, path = EVERYTHING[name]
    if name == "events":  # does not end
        return await raw.send("HEAD", path, **headers)
    return await raw.send(method, path, b"{}" if method == "POST" else None, **headers)


async def test_the_admins_token_opens_everything(guarded: Raw) -> None:
    for name in EVERYTHING:
        assert (await ask(guarded, name, Authorization=f"Bearer {ADMIN}")).status not in (401, 403), name


async def test_a_runners_token_opens_what_runners_need_and_nothing_else(guarded: Raw) -> None:
    assert RUNNERS_MAY == RUNNERS_NEED
    for name in EVERYTHING:
        answer = await ask(guarded, name, Authorization=f"Bearer {RUNNER}")
        assert (answer.status != 403) == (name in RUNNERS_NEED), name
        assert answer.status != 401, name


async def test_a_runners_token_opens_no_more_when_operations_travel_together(guarded: Raw) -> None:
    asked = [name for name in ROUTES if name != "wait_for_rollouts"]
    body = json.dumps({"operations": [{"operation": name} for name in asked]}).encode()
    answer = await guarded.send("POST", "/batch", body, Authorization=f"Bearer {RUNNER}")

    statuses = dict(zip(asked, [each["status"] for each in answer.json["answers"]], strict=True))
    assert {name for name, status in statuses.items() if status == 403} == set(asked) - RUNNERS_NEED


async def test_an_attempts_token_opens_nothing_but_the_way_for_its_spans(guarded: Raw) -> None:
    for name in EVERYTHING:
        answer = await ask(guarded, name, Authorization=f"Bearer {ATTEMPT}")
        assert (answer.status != 401) == (name == "v1"), name


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:4747"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
async def test_a_foreign_page_reaches_nothing_of_a_store_without_a_token(
    unguarded: Raw, headers: dict[str, str]
) -> None:
    """The queue's `GET /dequeue_rollout` included, which a picture's address would be enough for."""
    for name in [*EVERYTHING, "dequeue_rollout"]:
        assert (await ask(unguarded, name, **headers)).status == 403, name


async def test_a_store_answers_to_its_own_names_and_those_it_was_given(unguarded: Raw) -> None:
    for host in ("localhost", "localhost:4747", "127.0.0.1:1", "[::1]:4747", "store.example", "store.example:80"):
        assert (await unguarded.send("GET", "/statistics", Host=host)).status == 200
        same = {"Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert (await unguarded.send("GET", "/statistics", Host=host, **same)).status == 200
