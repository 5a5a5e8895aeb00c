"""Several operations in one request: how they travel together, and their answers back.

Calls that one client makes at the same time need not pay for a request each. Every operation of a batch is carried out,
answered and, where it fails, refused for itself; they are concurrent, in no order.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...errors import InvalidInput
from ..operations import MOST_CALLS, Answer

PATH = "/batch"


class Call(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One operation, with all its arguments by name."""

    operation: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    idempotency_key: str | None = None


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    operations: list[Call]


class _Answered(msgspec.Struct):
    status: int
    body: msgspec.Raw


class _Answers(msgspec.Struct):
    answers: list[_Answered]


_encoder = msgspec.json.Encoder()
_batch = msgspec.json.Decoder(_Batch)
_answers = msgspec.json.Decoder(_Answers)


def encode_calls(calls: Sequence[Call]) -> bytes:
    """The body of a request."""
    return _encoder.encode(_Batch(list(calls)))


def calls_in(body: bytes) -> list[Call]:
    """The operations that a request asks for. Raises `InvalidInput`."""
    try:
        calls = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the body of {PATH} is a JSON object with a list of operations: {error}", field="body"
        ) from None
    if len(calls.operations) > MOST_CALLS:
        raise InvalidInput(f"at most {MOST_CALLS} operations travel together", field="operations")
    return calls.operations


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """The body of the response: the answers in the order of their calls."""
    return _encoder.encode(_Answers([_Answered(status, msgspec.Raw(body)) for status, body in answers]))


def answers_in(body: bytes) -> list[Answer]:
    """The answers that a response holds."""
    return [(answered.status, bytes(answered.body)) for answered in _answers.decode(body).answers]
