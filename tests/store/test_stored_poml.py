"""POML templates that an earlier release stored can still be listed and read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agentlightning.store import LightningStoreClient, LightningStoreServer, SqliteLightningStore
from agentlightning.types import PromptTemplate


async def test_stored_poml_template_is_listed_and_read(tmp_path: Path) -> None:
    path = tmp_path / "agl.db"
    async with SqliteLightningStore(path) as store:
        await store.update_resources("rs", {"prompt": PromptTemplate(template="<p>{x}</p>", engine="jinja")})
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE resources SET resources = CAST(replace(resources, 'jinja', 'poml') AS BLOB)")
    expected = {"prompt": PromptTemplate(template="<p>{x}</p>", engine="poml")}

    async with SqliteLightningStore(path) as store:
        server = LightningStoreServer(store, port=0)
        await server.start()
        async with LightningStoreClient(server.endpoint) as client:
            for each in (store, client):
                [listed] = await each.query_resources()
                latest = await each.get_latest_resources()
                assert latest is not None
                assert listed.resources == latest.resources == expected
                assert (await each.start_rollout("task")).resources_id == "rs"
        await server.stop()
