"""HTTP messages shared by server and client: headers, media types, and batches of operations.

The client combines concurrent calls into one request, a batch. The operations in a batch run concurrently, in no
particular order, and each operation succeeds or fails independently.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ... import payload
from ...errors import InvalidInput

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
CLIENT_HEADER: Final = "X-Agentlightning"
"""Header that `LightningStoreClient` sends with the value `1`.

Pages of other sites cannot send it, because the store does not enable CORS.
"""
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

BATCH_PATH: Final = "/batch"
MAX_BATCH_SIZE: Final = 256
"""Maximum number of operations in one batch request."""

Response = tuple[int, bytes]
"""The HTTP status and the body of a response."""


class BatchCall(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One operation in a batch, with all of its arguments by name."""

    operation: str
    arguments: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    idempotency_key: str | None = None
    """Has the same meaning as the `Idempotency-Key` header of a request for a single operation."""


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a batch request."""

    operations: list[BatchCall]

    @classmethod
    def decode(cls, body: bytes, values: int) -> Batch:
        """Decode the body of a batch request.

        Raises `InvalidInput` if it is malformed, or has too many operations or more than `values` JSON values.
        """
        payload.check_size(body, field="body", values=values)
        try:
            batch = _batch.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"the body of {BATCH_PATH} must be a JSON object with a list of operations: {error}"
            raise InvalidInput(message, field="body") from None
        if len(batch.operations) > MAX_BATCH_SIZE:
            raise InvalidInput(f"a batch may contain at most {MAX_BATCH_SIZE} operations", field="operations")
        return batch


class BatchAnswer(msgspec.Struct):
    """The response to one operation in a batch."""

    status: int
    body: msgspec.Raw


class BatchAnswers(msgspec.Struct):
    """The body of a batch response."""

    answers: list[BatchAnswer]


_batch = msgspec.json.Decoder(Batch)
