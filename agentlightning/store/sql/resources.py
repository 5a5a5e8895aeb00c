"""Operations on resources. An update adds a new version, and existing versions never change."""

from __future__ import annotations

from typing import Any

from ... import payload
from ...errors import InvalidInput, NotFound
from ...types import LLM, NamedResources, PaginatedResult, ResourcesUpdate
from ...types.resources import HIDDEN, refuse_poml, with_hidden_keys
from ..db.database import Row, Transaction
from . import rows
from .base import SqlBase
from .query import Query, sorts

_RESOURCES_SORT = sorts(texts=("resources_id",), floats=("create_time", "update_time"), integers=("version",))

_COLUMNS = ("resources_id", "version", "create_time", "update_time")
_INSERT = f"INSERT INTO resources ({', '.join(_COLUMNS)}, resources) VALUES (?1, ?2, ?3, ?4, ?5)"


class Resources(SqlBase):
    """Operations on the resources that algorithms tune."""

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        return await self._store_resources(rows.new_id("rs", 12), resources)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        return await self._store_resources(payload.check_id(resources_id, "resources_id"), resources)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        **page: Any,
    ) -> PaginatedResult[ResourcesUpdate]:
        query = Query(self._database, rows.RESOURCES, "resources", _RESOURCES_SORT, page, size="length(resources)")
        query.equals("resources_id", resources_id)
        query.contains("resources_id", resources_id_contains)
        return await query.page(_without_keys)

    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        if version is None:
            return await self._resources("WHERE resources_id = ?1 ORDER BY version DESC", resources_id)
        return await self._resources("WHERE resources_id = ?1 AND version = ?2", resources_id, version)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._resources("ORDER BY ordinal DESC")

    async def _store_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        valid, text = rows.resources_json(resources)
        refuse_poml(valid)
        _check_no_hidden_keys(valid)

        async def body(transaction: Transaction) -> ResourcesUpdate:
            known = await transaction.fetch(
                "SELECT version, create_time FROM resources WHERE resources_id = ?1 ORDER BY version DESC LIMIT 1",
                resources_id,
            )
            version, created = (known[0][0] + 1, known[0][1]) if known else (1, self._clock.now())
            columns = (resources_id, version, created, self._clock.now())
            await transaction.execute(_INSERT, *columns, text)
            transaction.notify(("resources", ""))
            return ResourcesUpdate.model_construct(**dict(zip(_COLUMNS, columns, strict=True)), resources=valid)

        return await self._write(body)

    async def _resources(self, clause: str, *values: Any) -> ResourcesUpdate | None:
        sql = f"SELECT {rows.RESOURCES} FROM resources {clause} LIMIT 1"
        found = await self._database.fetch(sql, *values, short=True)
        return rows.resources_update(found[0]) if found else None


def _without_keys(row: Row) -> ResourcesUpdate:
    update = rows.resources_update(row)
    return update.model_copy(update={"resources": with_hidden_keys(update.resources)})


def _check_no_hidden_keys(resources: NamedResources) -> None:
    for name, each in resources.items():
        if isinstance(each, LLM) and each.api_key == HIDDEN:
            raise InvalidInput(
                f"the api_key of resource {name!r} is the mask {HIDDEN}; pass the key that get_resources_by_id returns",
                field=f"resources.{name}.api_key",
            )


async def resolve_version(transaction: Transaction, resources_id: str | None) -> tuple[str | None, int | None]:
    """Return `resources_id` and the number of its newest version, or `(None, None)` if `resources_id` is None.

    Raises `NotFound` if the id is unknown.
    """
    if resources_id is None:
        return None, None
    found = await transaction.fetch(
        "SELECT version FROM resources WHERE resources_id = ?1 ORDER BY version DESC LIMIT 1", resources_id
    )
    if not found:
        raise NotFound(f"no resources {resources_id} in this store", field="resources_id")
    return resources_id, found[0][0]
