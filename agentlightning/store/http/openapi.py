"""The OpenAPI 3.1 description of the store, derived from the operation table."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import TypeAdapter

from ... import payload
from ..encoded_span import SpanAck
from ..operations import Operation, operation_table
from .messages import BATCH_PATH, IDEMPOTENCY_KEY, JSON, PROBLEM, Batch, BatchAnswers


def openapi(version: str) -> dict[str, Any]:
    """Return the whole description."""
    table = operation_table()
    inputs: list[Any] = [(name, "validation", TypeAdapter(operation.model)) for name, operation in table.items()]
    outputs: list[Any] = [(name, "serialization", operation.result) for name, operation in table.items()]
    schemas, definitions = TypeAdapter.json_schemas([*inputs, *outputs], ref_template="#/components/schemas/{model}")
    paths = {
        operation.route.path: {
            operation.route.method.lower(): _describe(
                operation, schemas[name, "validation"], schemas[name, "serialization"]
            )
        }
        for name, operation in table.items()
    }
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {}) | _MESSAGES | {"Problem": _PROBLEM_SCHEMA}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LightningStore", "version": version, "description": "Database and message queue in one."},
        "paths": paths | _OTHER_PATHS,
        "components": components,
    }


def _content(description: str, schema: dict[str, Any], media_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {media_type: {"schema": schema}}}
    return {"description": description, **content} if description else content


def _describe(operation: Operation, request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    summary, _, more = operation.doc.partition("\n")
    description: dict[str, Any] = {
        "operationId": operation.name,
        "summary": summary,
        "description": more.strip(),
        "parameters": _parameters(operation),
        "responses": {
            "200": _content("The result.", _RESPONSES.get(operation.name, response), JSON),
            "default": _ERROR,
        },
    }
    if operation.route.method == "POST":
        description["requestBody"] = {"required": True, **_content("", request, JSON)}
    return description


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = operation.path_parameters
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path
    ]
    if operation.route.method == "GET":
        properties = operation.model.model_json_schema()["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
            if name not in in_path
        ]
    return [*parameters, _IDEMPOTENCY_KEY] if operation.route.mutates else parameters


_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": payload.MAX_ID_LENGTH},
    "description": "A call repeated under the same key is executed once, and gets the same response.",
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
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
    "/health": _path("get", "health", "Check that the server responds.", _content("It responds.", _OBJECT, JSON)),
    "/ready": _path("get", "ready", "Check that the database responds.", _content("It responds.", _OBJECT, JSON)),
    BATCH_PATH: _path(
        "post",
        "batch",
        "Execute several operations.",
        _content("The answers, in the order of the operations.", _BATCH_ANSWERS, JSON),
        description="Accepts operations that change something or look one thing up, and do not wait. They run "
        "concurrently, in no order; each succeeds or fails by itself.",
        requestBody={"required": True, **_content("", _BATCH, JSON)},
    ),
    "/v1/traces": _path(
        "post",
        "otlp_traces",
        "Receive spans from any OpenTelemetry exporter (OTLP/HTTP, gzip or plain).",
        {"description": "The rejected spans, if any.", "content": _OTLP},
        description="A span belongs to the attempt that agentlightning.rollout_id and agentlightning.attempt_id name "
        "in its own attributes, in the baggage header or in its resource's attributes; else to the attempt of its "
        "trace.",
        requestBody={"required": True, "content": _OTLP},
    ),
}
