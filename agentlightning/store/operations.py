"""The contract over HTTP: one table of operations, derived from `LightningStore`.

Each entry knows how its arguments become a request and how a request becomes arguments, and the same for results and
errors. Server, client and OpenAPI page read only this table.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from .. import errors, payload
from ..errors import AgentLightningError, InvalidInput
from ..types import PaginatedResult
from . import encoded_span
from .contract import UNSET, Route, Unset, operations
from .encoded_span import EncodedSpan, Kept
from .sql import SqlStore

IDEMPOTENCY_KEY = "Idempotency-Key"
JSON = "application/json"
PROBLEM = "application/problem+json"

LONGEST_WAIT = 25.0
"""Seconds of one long poll; proxies and firewalls let a silent connection live for at least 30."""

MOST_CALLS = 256
"""Operations that travel together in one request."""

Arguments = dict[str, Any]
Answer = tuple[int, bytes]
"""Status and body."""


class Request:
    """An operation's arguments as they travel."""

    __slots__ = ("body", "path", "query")

    def __init__(self, path: str, query: dict[str, str], body: bytes | None) -> None:
        self.path = path
        self.query = query
        self.body = body


class Operation:
    """One operation of the contract, on its way through HTTP."""

    def __init__(self, route: Route, method: Callable[..., Awaitable[Any]]) -> None:
        self.route = route
        self.doc = inspect.getdoc(method) or ""
        self.signature = inspect.signature(method)
        hints = get_type_hints(method, include_extras=True)
        answer: Any = hints.pop("return")
        self.lists = "PaginatedResult" in getattr(answer, "__name__", "")
        """Whether its result comes in pages."""
        self.result = TypeAdapter[Any](answer)
        self.model = self._request_model(hints)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call by their names; those not given are left out."""
        arguments = self.signature.bind(None, *args, **kwargs).arguments
        arguments.pop("self", None)
        return {name: value for name, value in arguments.items() if not isinstance(value, Unset)}

    # The client's side

    def request(self, arguments: Arguments) -> Request:
        """Arguments as a request. Raises `InvalidInput` where JSON cannot hold them."""
        rest = dict(arguments)
        path = "".join(f"/{_path_part(name, rest.pop(name))}" for name in self.route.path_parameters)
        url = f"/{self.route.name}{path}"
        if self.route.method == "GET":
            return Request(url, {name: _query(value) for name, value in rest.items() if value is not None}, None)
        return Request(url, {}, payload.dumps_fields(rest))

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        """The result that a response holds; `arguments` are those it answers."""
        return self.result.validate_json(text)

    # The server's side

    def arguments(
        self, path: Mapping[str, str], query: Mapping[str, str], body: bytes, depth: int = payload.MAX_DEPTH
    ) -> Arguments:
        """What a request asks for. Raises `InvalidInput` naming the field."""
        if self.route.method == "GET":
            return self.validate({**query, **path})
        return self.arguments_in(body, depth)

    def arguments_in(self, body: bytes, depth: int = payload.MAX_DEPTH) -> Arguments:
        """What a JSON object of all arguments asks for. Raises `InvalidInput` naming the field."""
        return self.validate(self.object_in(body, depth))

    def page(self, arguments: Arguments, most: int) -> Arguments:
        """The arguments for one page of at most `most` items, where the result comes in pages."""
        if not self.lists:
            return arguments
        limit = arguments.get("limit", -1)
        return {**arguments, "limit": most if limit == -1 else min(limit, most)}

    def object_in(self, body: bytes, depth: int) -> Arguments:
        """The body's JSON object. Raises `InvalidInput` where it is none, or not sound."""
        given: Any = payload.loads(body, field="body", depth=depth) if body else {}
        if not isinstance(given, dict):
            fields = ", ".join(self.model.model_fields)
            raise InvalidInput(f"the body of {self.route.path} is a JSON object of: {fields}", field="body")
        return cast("Arguments", given)

    def validate(self, arguments: Arguments) -> Arguments:
        """Arguments as the operation takes them. Raises `InvalidInput` naming the field."""
        try:
            valid = self.model.model_validate(arguments)
        except ValidationError as error:
            raise InvalidInput.of(error) from None
        validated = {name: getattr(valid, name) for name in valid.model_fields_set}
        for name, value in validated.items():
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise InvalidInput(f"{name} is an integer beyond 64 bits", field=name)
        return validated

    async def call(self, store: SqlStore, arguments: Arguments) -> Any:
        """Carry the operation out, with arguments that are known to be valid."""
        return await getattr(SqlStore, self.route.name)(store, **arguments)

    def encode(self, result: Any) -> bytes:
        """A result as the body of a response."""
        return payload.dumps_sound(result)

    def _request_model(self, hints: dict[str, Any]) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        for name, parameter in list(self.signature.parameters.items())[1:]:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (_without_unset(hints[name]), None if default is UNSET else default)
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        return create_model(f"{self.route.name}_request", __config__=config, **fields)


class _AddSpans(Operation):
    """Spans are stored as the bytes that came; the answer is only what was decided about each."""

    def arguments_in(self, body: bytes, depth: int = payload.MAX_DEPTH) -> Arguments:
        self.object_in(body, depth)
        try:
            arguments = self.spans_in(body)
        except msgspec.ValidationError as error:
            raise encoded_span.invalid(error) from None
        for span in arguments["spans"]:
            encoded_span.check(span)
        return arguments

    def spans_in(self, body: bytes) -> Arguments:
        return {"spans": _many_spans.decode(body).spans}

    async def call(self, store: SqlStore, arguments: Arguments) -> Any:
        return await store.add_encoded_spans(arguments["spans"])

    def encode(self, result: Any) -> bytes:
        return msgspec.json.encode(result)

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        kept = _many_kept.decode(text)
        return [as_stored.shown_in(span) for span, as_stored in zip(arguments["spans"], kept, strict=True) if as_stored]


class _AddSpan(_AddSpans):
    def spans_in(self, body: bytes) -> Arguments:
        return {"spans": [_one_span.decode(body).span]}

    async def call(self, store: SqlStore, arguments: Arguments) -> Any:
        return await store.add_encoded_span(arguments["spans"][0])

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        as_stored = _one_kept.decode(text)
        return None if as_stored is None else as_stored.shown_in(arguments["span"])


class _QuerySpans(Operation):
    """Stored bytes are served as they are."""

    async def call(self, store: SqlStore, arguments: Arguments) -> Any:
        return await store.query_encoded_spans(**arguments)

    def encode(self, result: Any) -> bytes:
        page: PaginatedResult[bytes] = result
        about = {"limit": page.limit, "offset": page.offset, "total": page.total, "cursor": page.cursor}
        return msgspec.json.encode(about)[:-1] + b',"items":[' + b",".join(page.items) + b"]}"


class _Summary(Operation):
    """One answer may be given to many who look on; it is made into bytes once."""

    _encoded: tuple[Any, bytes] = (None, b"")

    def encode(self, result: Any) -> bytes:
        encoded = self._encoded
        if encoded[0] is not result:
            encoded = self._encoded = (result, super().encode(result))
        return encoded[1]


class _OneSpan(msgspec.Struct, forbid_unknown_fields=True):
    span: EncodedSpan


class _ManySpans(msgspec.Struct, forbid_unknown_fields=True):
    spans: list[EncodedSpan]


_one_span = msgspec.json.Decoder(_OneSpan)
_many_spans = msgspec.json.Decoder(_ManySpans)
_one_kept = msgspec.json.Decoder(Kept | None)
_many_kept = msgspec.json.Decoder(list[Kept | None])
_SPECIAL = {"add_span": _AddSpan, "add_many_spans": _AddSpans, "query_spans": _QuerySpans, "summary": _Summary}


def checked(route: Route, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """The operation for callers in the store's own process: its arguments are checked as those from afar are."""
    operation = table()[route.name]
    within = getattr(SqlStore, route.name)

    async def call(self: SqlStore, *args: Any, **kwargs: Any) -> Any:
        return await within(self, **operation.validate(operation.bind(args, kwargs)))

    return call


@cache
def table() -> dict[str, Operation]:
    """Every operation by name."""
    return {route.name: _SPECIAL.get(route.name, Operation)(route, method) for route, method in operations()}


# Errors


def problem(error: AgentLightningError) -> dict[str, Any]:
    """An error as the members of a problem+json body (RFC 9457)."""
    members: dict[str, Any] = {
        "type": f"urn:agentlightning:{type(error).__name__}",
        "title": (type(error).__doc__ or "").partition("\n")[0],
        "status": error.status,
        "detail": str(error),
    }
    return members if error.field is None else {**members, "field": error.field}


def from_problem(status: int, text: bytes) -> AgentLightningError:
    """The error that a response tells of, as the class it was raised as."""
    try:
        members = cast("dict[str, Any]", msgspec.json.decode(text))
        name = str(members["type"]).rpartition(":")[2]
        detail, field = str(members["detail"]), members.get("field")
    except (msgspec.MsgspecError, KeyError, TypeError):
        return AgentLightningError(f"the store answered {status}: {text[:200].decode(errors='replace')}")
    kind = getattr(errors, name, AgentLightningError)
    if not (isinstance(kind, type) and issubclass(kind, AgentLightningError)):
        kind = AgentLightningError
    return kind(detail, field=field)


# The OpenAPI page


def openapi(version: str) -> dict[str, Any]:
    """All of it, as OpenAPI 3.1."""
    inputs: list[Any] = [(name, "validation", TypeAdapter(operation.model)) for name, operation in table().items()]
    outputs: list[Any] = [(name, "serialization", operation.result) for name, operation in table().items()]
    schemas, definitions = TypeAdapter.json_schemas([*inputs, *outputs], ref_template="#/components/schemas/{model}")
    paths = {
        operation.route.path: {
            operation.route.method.lower(): _describe(
                operation, schemas[name, "validation"], schemas[name, "serialization"]
            )
        }
        for name, operation in table().items()
    }
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {}) | {"Problem": _PROBLEM_SCHEMA}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LightningStore", "version": version, "description": "Database and message queue in one."},
        "paths": paths | _BESIDE,
        "components": components,
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
        "field": {"type": "string", "description": "The input field to blame."},
    },
}
_KEPT: dict[str, Any] = {
    "anyOf": [msgspec.json.schema_components([Kept])[1]["Kept"], {"type": "null"}],
    "description": "The number the span was given; null when it was there already.",
}
_ANSWERS: dict[str, Any] = {"add_span": _KEPT, "add_many_spans": {"type": "array", "items": _KEPT}}


def _beside(method: str, operation_id: str, summary: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    responses = {"200": answer, "default": _content("What went wrong.", _A_PROBLEM, PROBLEM)}
    return {method: {"operationId": operation_id, "summary": summary, "parameters": [], "responses": responses, **more}}


def _content(description: str, schema: dict[str, Any], kind: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {kind: {"schema": schema}}}
    return {"description": description, **content} if description else content


_A_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_OBJECT = {"type": "object"}
_OTLP = {
    "application/json": {"schema": _OBJECT},
    "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
}
_BATCH: dict[str, Any] = {
    "type": "object",
    "required": ["operations"],
    "properties": {
        "operations": {
            "type": "array",
            "maxItems": MOST_CALLS,
            "items": {
                "type": "object",
                "required": ["operation"],
                "properties": {
                    "operation": {"type": "string", "description": "Its name, as in its path."},
                    "arguments": {"type": "object", "description": "All of them by name."},
                    "idempotency_key": {"type": ["string", "null"], "description": "As the header of that name."},
                },
            },
        }
    },
}
_BATCH_ANSWERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answers": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"status": {"type": "integer"}, "body": {"description": "As of a request of its own."}},
            },
        }
    },
}
_BESIDE: dict[str, Any] = {
    "/health": _beside("get", "health", "Whether the server answers.", _content("It does.", _OBJECT, JSON)),
    "/ready": _beside("get", "ready", "Whether the database answers too.", _content("It does.", _OBJECT, JSON)),
    "/batch": _beside(
        "post",
        "batch",
        "Several operations at once, each carried out and answered for itself.",
        _content("The answers, in the order of the operations.", _BATCH_ANSWERS, JSON),
        description="Any operation that changes something or looks one thing up, and does not wait. They are "
        "concurrent, in no order.",
        requestBody={"required": True, **_content("", _BATCH, JSON)},
    ),
    "/v1/traces": _beside(
        "post",
        "otlp_traces",
        "Spans from any OpenTelemetry exporter (OTLP/HTTP, gzip or plain).",
        {"description": "What was refused, if anything.", "content": _OTLP},
        description="A span belongs to the attempt that agentlightning.rollout_id and agentlightning.attempt_id name, "
        "in its own attributes, the baggage header or its resource's attributes; else to that of its trace.",
        requestBody={"required": True, "content": _OTLP},
    ),
}
"""What the server answers beside the contract's operations."""


def _describe(operation: Operation, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    route = operation.route
    summary, _, more = operation.doc.partition("\n")
    description: dict[str, Any] = {
        "operationId": route.name,
        "summary": summary,
        "description": more.strip(),
        "parameters": _parameters(operation),
        "responses": {
            "200": _content("The result.", _ANSWERS.get(route.name, answer), JSON),
            "default": _content("What went wrong.", _A_PROBLEM, PROBLEM),
        },
    }
    if route.method == "POST":
        description["requestBody"] = {"required": True, **_content("", request, JSON)}
    return description


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = operation.route.path_parameters
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
    if operation.route.mutates:
        parameters.append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": payload.MAX_ID_LENGTH},
                "description": "A call repeated under the same key happens once, and is answered the same.",
            }
        )
    return parameters


# Helpers


def _path_part(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is a string, not {type(value).__name__}", field=name)
    return quote(payload.check_id(value, name), safe="")


def _query(value: Any) -> str:
    return value if isinstance(value, str) else payload.dumps(value).decode()


def _without_unset(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType) or Unset not in get_args(hint):
        return hint
    return Union[tuple(part for part in get_args(hint) if part is not Unset)]  # noqa: UP007
