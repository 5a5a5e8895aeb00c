"""Clients and stores of different versions: they work within one minor version, and name both versions otherwise."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import agentlightning as agl
from agentlightning.errors import AgentLightningError, InvalidInput
from agentlightning.store.http.versions import VERSION_HEADER
from tests.processes import Program

OWN = version("agentlightning")
MAJOR, MINOR = map(int, OWN.split(".")[:2])

# A store of another version, optionally with an operation or a parameter less, or with a field more.
SCRIPT = """
import importlib.metadata, sys
other, change = sys.argv[1:]
if other:
    importlib.metadata.version = lambda name: other

from agentlightning.store import InMemoryLightningStore, LightningStoreServer, operations
from agentlightning.store.http import server

table = operations.operation_table()
if change == "lacks operation":
    del table["summary"]
if change == "lacks parameter":
    operation = table["enqueue_rollout"]
    operation.model.__pydantic_fields__.pop("mode")
    operation.model.model_rebuild(force=True)
if change == "adds field":
    encode = table["start_rollout"].encode
    table["start_rollout"].encode = lambda result: encode(result).replace(b'"config":{', b'"new":1,"config":{"new":1,')
if change == "returns text":
    table["start_rollout"].encode = lambda result: b'"text"'

if not other:
    server.VERSION_HEADER = "X-Unrelated"
store = LightningStoreServer(InMemoryLightningStore(), port=0)
store.run_forever(lambda: print("Store at", store.endpoint, flush=True))
"""


@contextmanager
def store_of(version: str, folder: Path, change: str = "") -> Generator[str]:
    """Serve a store of another version in a process of its own; yield its URL."""
    script = folder / "store.py"
    script.write_text(SCRIPT)
    with Program(script, version, change) as store:
        yield store.wait_for_line("^Store at (.*)")[1]


@pytest.mark.parametrize("other", [f"{MAJOR}.{MINOR + 1}.7rc1", f"{MAJOR}.{MINOR}.99"])
async def test_neighbouring_version_works_and_its_new_fields_are_ignored(other: str, tmp_path: Path) -> None:
    with store_of(other, tmp_path, "adds field") as url:
        async with agl.LightningStoreClient(url) as client:
            rollout = await client.start_rollout("task", config=agl.RolloutConfig(max_attempts=3))

    assert (rollout.input, rollout.config.max_attempts) == ("task", 3)


@pytest.mark.parametrize("other", [f"{MAJOR}.{MINOR + 2}.0", f"{MAJOR + 1}.{MINOR}.0"])
async def test_distant_version_is_refused_with_both_versions(other: str, tmp_path: Path) -> None:
    with store_of(other, tmp_path) as url:
        async with agl.LightningStoreClient(url) as client:
            with pytest.raises(InvalidInput) as refused:
                await client.enqueue_rollout("task")
        async with aiohttp.ClientSession() as session, session.post(f"{url}/query_rollouts", json={}) as response:
            rollouts: Any = await response.json()

    assert f"this store is version {other} of agentlightning and the client is version {OWN}" in str(refused.value)
    assert "install the same version on both" in str(refused.value)
    assert (rollouts["total"], response.headers[VERSION_HEADER]) == (0, other)


@pytest.mark.parametrize(
    ("other", "change", "problem"),
    [
        (f"{MAJOR}.{MINOR + 1}.0", "lacks operation", "no route /summary"),
        (f"{MAJOR}.{MINOR + 1}.0", "lacks parameter", "mode: enqueue_rollout has no such parameter"),
        (f"{MAJOR}.{MINOR + 1}.0", "returns text", "invalid response"),
        ("", "lacks operation", "no route /summary"),
    ],
)
async def test_unknown_part_of_the_api_is_explained_by_both_versions(
    other: str, change: str, problem: str, tmp_path: Path
) -> None:
    async def use_everything(client: agl.LightningStoreClient) -> None:
        await client.enqueue_rollout("task", mode="train")
        await client.start_rollout("task")
        await client.summary()

    with store_of(other, tmp_path, change) as url:
        async with agl.LightningStoreClient(url) as client:
            with pytest.raises(AgentLightningError) as raised:
                await use_everything(client)

    assert problem in str(raised.value)
    store = f"version {other}" if other else "of a version that it does not name"
    assert f"(the store is {store}, and this client is version {OWN})" in str(raised.value)


@pytest.mark.parametrize("header", ["abc", "1", "1.0;rm", "9" * 5_000, "-1.0", "1.٣"])
async def test_malformed_version_is_refused(header: str) -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    async with aiohttp.ClientSession(headers={VERSION_HEADER: header}) as session:
        response = await session.get(f"{server.endpoint}/statistics")
        problem: Any = await response.json()
    await server.close()

    assert (response.status, problem["field"]) == (422, VERSION_HEADER)


async def test_own_version_is_not_named_in_errors() -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0)
    await server.start()
    async with agl.LightningStoreClient(server.endpoint) as client:
        with pytest.raises(InvalidInput) as raised:
            await client.enqueue_rollout("task", mode="wrong")  # pyright: ignore[reportArgumentType]
    await server.close()

    assert "version" not in str(raised.value)
