"""Encoding, decoding and validation for the store's operations, derived from the contract.

The server, the client, the OpenAPI document and the in-process stores use the same `operation_table`. This module does
not contain any HTTP or SQL code.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from .. import errors, payload
from ..concurrency import map_in_slices
from ..errors import AgentLightningError, InvalidInput, TooLarge
from . import encoded_span
from .contract import UNSET, Route, Unset, operations
from .encoded_span import EncodedSpan, SpanAck

if TYPE_CHECKING:
    from ..http.limits import Limits

Arguments = dict[str, Any]


class Operation:
    """An operation of the contract, with the types of its arguments and result."""

    implementation = ""
    """Name of the `SqlStore` method that executes the operation."""

    def __init__(self, route: Route, method: Callable[..., Awaitable[Any]]) -> None:
        self.route = route
        self.name = route.name
        self.implementation = self.implementation or route.name
        self.batchable = route.batchable
        self.path_parameters = tuple(route.path_parameters)
        self.doc = inspect.getdoc(method) or ""
        self.signature = inspect.signature(method)
        hints = get_type_hints(method, include_extras=True)
        result: Any = hints.pop("return")
        self.is_paginated = "PaginatedResult" in getattr(result, "__name__", "")
        self.wait_parameter = next((name for name in ("wait", "timeout") if name in hints), None)
        """Name of the parameter that limits the waiting time in seconds, or None if the operation does not wait."""
        self.is_list = self.is_paginated or (self.wait_parameter is not None and get_origin(result) is list)
        """True if the result is a list of stored objects that may be too large for one response."""
        self.item_parameters = [name for name, hint in hints.items() if _is_item_list(hint)]
        """Names of the parameters that are lists of objects or pairs, as opposed to lists of ids or statuses."""
        self.is_divisible = bool(self.item_parameters) and get_origin(result) is list
        """True if a call with a long list is equivalent to several calls with parts of the list."""
        self.result = TypeAdapter[Any](result)
        self.model = self._argument_model(hints)

    encode: Callable[[Any], bytes] = staticmethod(payload.dumps_unchecked)
    """Converts the store's result to JSON text."""

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Return the arguments of a call by name. Arguments that were not passed or are `UNSET` are left out."""
        arguments = self.signature.bind(None, *args, **kwargs).arguments
        arguments.pop("self", None)
        return {name: value for name, value in arguments.items() if not isinstance(value, Unset)}

    def decode_arguments(self, body: bytes, limits: Limits) -> Arguments:
        """Parse and validate a request body that contains all arguments. An empty body is parsed as `{}`.

        Raises `InvalidInput` if the body is not a JSON object or an argument is invalid, and `TooLarge` if the body has
        too many values or a list has too many items.
        """
        value: Any = payload.loads(body, field="body", depth=limits.depth, values=limits.values) if body else {}
        if not isinstance(value, dict):
            fields = ", ".join(self.model.model_fields)
            raise InvalidInput(
                f"the body of {self.route.path} must be a JSON object with the fields: {fields}", field="body"
            )
        arguments = cast("Arguments", value)
        self._check_items(arguments, limits.items)
        return self._convert(arguments)

    def _convert(self, arguments: Arguments) -> Arguments:
        """Convert arguments from JSON to the types that the implementation takes."""
        return self.validate(arguments)

    def _check_items(self, arguments: Arguments, most: int) -> None:
        for name in self.item_parameters:
            value = arguments.get(name)
            if isinstance(value, list) and (count := len(cast("list[Any]", value))) > most:
                raise TooLarge(
                    f"{name} has {count} items, but {self.name} takes at most {most} (Limits.items); split the list "
                    "and call it once for each part",
                    field=name,
                )

    def validate(self, arguments: Arguments) -> Arguments:
        """Convert arguments to the operation's types. Raises an `InvalidInput` that names the invalid field."""
        for name in arguments:
            if name not in self.model.model_fields:
                raise InvalidInput(f"{name}: {self.name} has no such parameter", field=name)
        try:
            valid = self.model.model_validate(arguments)
        except ValidationError as error:
            raise InvalidInput.of(error) from None
        validated = {name: getattr(valid, name) for name in valid.model_fields_set}
        for name, value in validated.items():
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise InvalidInput(f"{name} does not fit in a signed 64-bit integer", field=name)
        return validated

    def limit_response(self, arguments: Arguments, page_size: int, page_bytes: int) -> Arguments:
        """Return the arguments for the implementation. They limit the size of the response if it is a list.

        If the operation is paginated, `limit` is reduced to at most `page_size`. If the result is a list, `max_bytes`
        is set to `page_bytes`.
        """
        if self.is_paginated:
            limit = arguments.get("limit", -1)
            arguments = {**arguments, "limit": page_size if limit == -1 else min(limit, page_size)}
        return {**arguments, "max_bytes": page_bytes} if self.is_list else arguments

    def decode_stored(self, text: bytes) -> Any:
        """Decode a response that was stored under an idempotency key into the result of the original call."""
        return self.result.validate_json(text)

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        """Decode the response to a call with these `arguments` into the result of the call.

        Unknown fields are ignored, because a store that runs a newer release may send them.
        """
        return self.result.validate_json(text, extra="ignore")

    def _argument_model(self, hints: dict[str, Any]) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        for name, parameter in list(self.signature.parameters.items())[1:]:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (_argument_type(hints[name]), None if default is UNSET else default)
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        return create_model(f"{self.name}_request", __config__=config, **fields)


class _AddSpans(Operation):
    """Stores spans without decoding them completely. The response contains only their acknowledgements."""

    implementation = "add_encoded_spans"
    encode = staticmethod(msgspec.json.encode)

    def _convert(self, arguments: Arguments) -> Arguments:
        # Encode the checked values again instead of decoding the body. If an object in the body repeats a key, only the
        # last of the key's values has been checked.
        text = payload.dumps_unchecked(arguments)
        try:
            arguments = self.decode_spans(text)
        except msgspec.ValidationError as error:
            raise encoded_span.invalid(error) from None
        for span in arguments["spans"]:
            encoded_span.check(span)
        return arguments

    def decode_spans(self, body: bytes) -> Arguments:
        return {"spans": _many_spans.decode(body).spans}

    def decode_stored(self, text: bytes) -> Any:
        return _acks.decode(text)

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        acks = _acks.decode(text)
        return [ack.apply_to(span) for span, ack in zip(arguments["spans"], acks, strict=True) if ack]


def _encode_first(acks: list[SpanAck | None]) -> bytes:
    return msgspec.json.encode(acks[0])


class _AddSpan(_AddSpans):
    """Stores one span. The store returns a list of one acknowledgement, and the response contains only that element."""

    encode = staticmethod(_encode_first)

    def decode_spans(self, body: bytes) -> Arguments:
        return {"spans": [_one_span.decode(body).span]}

    def decode_stored(self, text: bytes) -> Any:
        return [_ack.decode(text)]

    def decode(self, text: bytes, arguments: Arguments) -> Any:
        ack = _ack.decode(text)
        return None if ack is None else ack.apply_to(arguments["span"])


async def encode_response(operation: Operation, result: Any) -> bytes:
    """Encode an operation's result as JSON. A long list does not block the event loop (see `map_in_slices`)."""
    if operation.is_paginated:
        head = {"limit": result.limit, "offset": result.offset, "total": result.total, "cursor": result.cursor}
        return await _encode_list(msgspec.json.encode(head)[:-1] + b',"items":[', result.items, b"]}")
    if operation.is_list:
        return await _encode_list(b"[", result, b"]")
    return operation.encode(result)


async def _encode_list(start: bytes, items: Sequence[Any], end: bytes) -> bytes:
    parts = [start]
    for text in await map_in_slices(_encode_item, items):
        parts += (text, b",")
    return b"".join((*parts[:-1], end) if items else (start, end))  # join only once, because it copies all the text


def _encode_item(item: Any) -> bytes:
    return item if isinstance(item, bytes) else payload.dumps_unchecked(item)


class _QueryRollouts(Operation):
    """Returns the stored JSON text of each rollout's input and metadata without decoding it."""

    implementation = "query_encoded_rollouts"


class _QuerySpans(Operation):
    """Returns the stored JSON text of spans without creating `Span` objects."""

    implementation = "query_encoded_spans"


class _Summary(Operation):
    """Encodes each summary only once, even if the store returns the same summary to many callers."""

    _last: tuple[Any, bytes] = (None, b"")

    def __init__(self, route: Route, method: Callable[..., Awaitable[Any]]) -> None:
        super().__init__(route, method)
        self.encode = self._encode_once

    def _encode_once(self, summary: Any) -> bytes:
        last = self._last
        if last[0] is not summary:
            last = self._last = (summary, payload.dumps_unchecked(summary))
        return last[1]


class _OneSpan(msgspec.Struct, forbid_unknown_fields=True):
    span: EncodedSpan


class _ManySpans(msgspec.Struct, forbid_unknown_fields=True):
    spans: list[EncodedSpan]


_one_span = msgspec.json.Decoder(_OneSpan)
_many_spans = msgspec.json.Decoder(_ManySpans)
_ack = msgspec.json.Decoder(SpanAck | None)
_acks = msgspec.json.Decoder(list[SpanAck | None])
_SPECIAL = {
    "add_span": _AddSpan,
    "add_many_spans": _AddSpans,
    "query_rollouts": _QueryRollouts,
    "query_spans": _QuerySpans,
    "summary": _Summary,
}


@cache
def operation_table() -> dict[str, Operation]:
    """Return all operations by name."""
    return {route.name: _SPECIAL.get(route.name, Operation)(route, method) for route, method in operations()}


def problem(error: AgentLightningError) -> dict[str, Any]:
    """Return an error as the members of a problem+json body (RFC 9457)."""
    members: dict[str, Any] = {
        "type": f"urn:agentlightning:{type(error).__name__}",
        "title": (type(error).__doc__ or "").partition("\n")[0],
        "status": error.status,
        "detail": str(error),
    }
    return members if error.field is None else {**members, "field": error.field}


def error_from_problem(status: int, text: bytes) -> AgentLightningError:
    """Return the error that a problem+json body describes, as an instance of the original error class.

    If the body is malformed or names an unknown class, return an `AgentLightningError`.
    """
    try:
        members = cast("dict[str, Any]", msgspec.json.decode(text))
        name = str(members["type"]).rpartition(":")[2]
        detail, field = str(members["detail"]), members.get("field")
    except (msgspec.MsgspecError, KeyError, TypeError):
        return AgentLightningError(f"the store responded with {status}: {text[:200].decode(errors='replace')}")
    kind = getattr(errors, name, AgentLightningError)
    if not (isinstance(kind, type) and issubclass(kind, AgentLightningError)):
        kind = AgentLightningError
    return kind(detail, field=field)


def _is_item_list(hint: Any) -> bool:
    sequences = [part for part in (hint, *get_args(hint)) if get_origin(part) is Sequence]
    return any(get_args(each)[0] is not str and get_origin(get_args(each)[0]) is not Literal for each in sequences)


def _argument_type(hint: Any) -> Any:
    """Return the type that pydantic validates an argument against. `hint` is the contract's type annotation.

    `Unset` is removed from unions. The validation of a list stops at the first invalid item, because it would take
    seconds to report half a million errors.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_argument_type(part) for part in parts if part is not Unset)]  # noqa: UP007
    if origin is Sequence:
        return Annotated[list[parts[0]], Field(fail_fast=True)]
    return hint
