"""The OpenAPI 3.1 description of the store's HTTP API, derived mainly from the operation table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import TypeAdapter

from ... import payload
from ..encoded_span import SpanAck
from ..operations import Operation, operation_table
from .auth import STATE_CHANGING_GETS
from .messages import BATCH_PATH, CLIENT_HEADER, IDEMPOTENCY_KEY, JSON, PROBLEM, Batch, BatchAnswers


def openapi(version: str) -> dict[str, Any]:
    """Return the OpenAPI document for the release `version` of the package."""
    table = operation_table()
    inputs: list[Any] = [(name, "validation", TypeAdapter(operation.model)) for name, operation in table.items()]
    outputs: list[Any] = [(name, "serialization", operation.result) for name, operation in table.items()]
    schemas, definitions = TypeAdapter.json_schemas([*inputs, *outputs], ref_template="#/components/schemas/{model}")
    operations = [(operation.route, _describe(operation, schemas)) for operation in table.values()]
    paths = {route.path: {route.method.lower(): description} for route, description in operations}
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {}) | _MESSAGES | {"Problem": _PROBLEM_SCHEMA}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LightningStore", "version": version, "description": "Combined database and task queue."},
        "paths": paths | _OTHER_PATHS,
        "components": components,
    }


def _content(description: str, schema: dict[str, Any], media_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {media_type: {"schema": schema}}}
    return {"description": description, **content} if description else content


def _describe(operation: Operation, schemas: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    summary, _, more = operation.doc.partition("\n")
    result = _RESPONSES.get(operation.name, schemas[operation.name, "serialization"])
    description: dict[str, Any] = {
        "operationId": operation.name,
        "summary": summary,
        "description": more.strip() + (_CLIENT_HEADER_NEEDED if operation.name in STATE_CHANGING_GETS else ""),
        "parameters": _parameters(operation),
        "responses": {"200": _content("The result.", result, JSON), "default": _ERROR},
    }
    if operation.route.method == "POST":
        request = schemas[operation.name, "validation"]
        description["requestBody"] = {"required": True, **_content("", request, JSON)}
    return description


_CLIENT_HEADER_NEEDED = (
    f"\n\nThe header `{CLIENT_HEADER}: 1` is required if the store allows hosts other than localhost without a token."
)


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    is_get = operation.route.method == "GET"
    properties: dict[str, Any] = operation.model.model_json_schema()["properties"] if is_get else {}
    parameters = [_parameter(name, "path", {"type": "string"}) for name in operation.path_parameters]
    in_query = [name for name in properties if name not in operation.path_parameters]
    parameters += [_parameter(name, "query", properties[name]) for name in in_query]
    return [*parameters, _IDEMPOTENCY_KEY] if operation.route.mutates else parameters


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


_IDEMPOTENCY_KEY: dict[str, Any] = {
    **_parameter(IDEMPOTENCY_KEY, "header", {"type": "string", "maxLength": payload.MAX_ID_LENGTH}),
    "description": "Calls with the same key are executed once and get the same response.",
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail")},
        "status": {"type": "integer"},
        "field": {"type": "string", "description": "The invalid input field."},
    },
}
_ERROR = _content("An error.", {"$ref": "#/components/schemas/Problem"}, PROBLEM)
_OBJECT = {"type": "object"}
_OTLP = {
    "application/json": {"schema": _OBJECT},
    "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
}
(_ACK, _BATCH, _BATCH_ANSWERS), _MESSAGES = msgspec.json.schema_components(
    [SpanAck | None, Batch, BatchAnswers], ref_template="#/components/schemas/{name}"
)
_RESPONSES: dict[str, Any] = {"add_span": _ACK, "add_many_spans": {"type": "array", "items": _ACK}}


def _path(method: str, name: str, summary: str, response: dict[str, Any], **more: Any) -> dict[str, Any]:
    responses = {"200": response, "default": _ERROR}
    return {method: {"operationId": name, "summary": summary, "parameters": [], "responses": responses, **more}}


_OTHER_PATHS: dict[str, Any] = {
    "/health": _path(
        "get", "health", "Check that the server responds.", _content("The server is responding.", _OBJECT, JSON)
    ),
    "/ready": _path(
        "get", "ready", "Check that the database responds.", _content("The database is responding.", _OBJECT, JSON)
    ),
    BATCH_PATH: _path(
        "post",
        "batch",
        "Execute several operations.",
        _content("The responses, in the order of the operations.", _BATCH_ANSWERS, JSON),
        description="Accepts operations that change something or look up a single object, but do not wait. The "
        "operations run concurrently, in no particular order. Each operation succeeds or fails independently.",
        requestBody={"required": True, **_content("", _BATCH, JSON)},
    ),
    "/v1/traces": _path(
        "post",
        "otlp_traces",
        "Receive spans from any OpenTelemetry exporter (OTLP/HTTP, gzip or plain).",
        {"description": "The rejected spans, if any.", "content": _OTLP},
        description="A span belongs to the attempt identified by agentlightning.rollout_id and "
        "agentlightning.attempt_id in its attributes, in the baggage header or in its resource's attributes, in that "
        "order of precedence; otherwise, it belongs to the attempt of the token, or to the only live attempt that has "
        "spans in its trace.",
        requestBody={"required": True, "content": _OTLP},
    ),
}
