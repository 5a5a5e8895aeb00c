"""Each question is answered once: what a mutation answered is kept under its idempotency key, in the same commit.

The server says which question is being asked; the store keeps the answer with the change itself, so that a caller who
never saw the answer may ask again, even of a store that was killed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import Conflict
from ..db.database import Body, Transaction

T = TypeVar("T")

KEPT_SECONDS = 3_600.0
"""By the store's own clock: while it is closed, nobody can ask again."""

FORGOTTEN_AT_ONCE = 1_000
"""In one transaction: others wait for it, some milliseconds."""


@dataclass(slots=True)
class Question:
    """A mutation, asked under a key that its caller made up."""

    key: str
    encode: Callable[[Any], bytes]
    """The answer as it will be given."""
    answer: bytes | None = None
    """That answer, once it is kept."""
    time: float = 0.0
    """When it was kept, by the store's own clock."""


asked: ContextVar[Question | None] = ContextVar("asked", default=None)


class AlreadyAnswered(Exception):
    """The question was asked before, and this is what was answered."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("already answered")
        self.answer = answer


def once(question: Question, body: Body[T], lease: float) -> Body[T | AlreadyAnswered]:
    """`body`, unless the question was answered before; its answer is kept with what it changed."""

    async def answering(transaction: Transaction) -> T | AlreadyAnswered:
        question.answer = None  # this may be the second time, and the first came to nothing
        earlier = await transaction.answer_to(question.key)
        if earlier is not None:
            return AlreadyAnswered(earlier)
        try:
            result = await body(transaction)
        except Conflict:
            # Another server may just have done what is asked here: then its answer is there by now.
            if (earlier := await transaction.answer_to(question.key, anew=True)) is None:
                raise
            return AlreadyAnswered(earlier)
        if _changed_something(result):
            question.answer, question.time = question.encode(result), lease
            await transaction.keep_answer(question.key, question.answer, lease)
        return result

    return answering


def _changed_something(result: Any) -> bool:
    """A claim that found nothing has not."""
    return result is not None and not (isinstance(result, list) and not result)


async def forget_some_old(transaction: Transaction, lease: float) -> bool:
    """Drop answers that nobody will ask for again; False when there are no more of them."""
    some = "SELECT key FROM answers WHERE time < ?1 ORDER BY time LIMIT ?2"
    gone = await transaction.fetch(
        f"DELETE FROM answers WHERE key IN ({some}) RETURNING 1", lease - KEPT_SECONDS, FORGOTTEN_AT_ONCE
    )
    return len(gone) == FORGOTTEN_AT_ONCE
