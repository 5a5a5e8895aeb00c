"""One batch of spans on its way to an OTLP/HTTP receiver, and what its answer means."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Sequence

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .encode import Encoded, encoded, request_of
from .target import Target

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
LARGEST_ANSWER = 64 * 1024
LONGEST_RETRY_AFTER = 300.0

_KIND = "application/x-protobuf"
_TOO_LARGE = 413
_REFUSED = frozenset({400, _TOO_LARGE, 422})
"""Statuses after which the same request would be refused again."""


class Away(Exception):
    """The target takes nothing just now."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class TakesNone(Away):
    """It refuses what it was sent, and has never taken any: this may be about the request, a missing header say."""


class Sender:
    """Sends spans to one target, and counts those that it will never take."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self.rejected = 0
        self.has_taken = False
        """Whether it has taken a span since the start: only then is every refusal about the span."""
        self._session = session
        self._target = target
        self._refusals: list[tuple[int, str]] = []
        """How many spans of this batch it does not take, and what it said."""

    async def send(self, payloads: Sequence[bytes]) -> int:
        """Return when each span is sent or rejected: how many were sent. Raises `Away`."""
        self._refusals = []
        spans: list[Encoded] = []
        for payload in payloads:
            try:
                spans.append(encoded(payload))
            except Exception as error:
                self._refusals.append((1, f"a span cannot be written as OTLP: {error!r}"))
            await asyncio.sleep(0)  # lets go of the interpreter: whoever serves requests goes first
        if spans:
            await self._deliver(spans)
        return len(payloads) - self._reject()

    async def _deliver(self, spans: Sequence[Encoded]) -> None:
        status, answer, retry_after = await self._post(gzip.compress(request_of(spans), compresslevel=1))
        if status == 200:
            self.has_taken = True
            self._note_partial(answer)
            return
        why = f"{status}: {answer[:300].decode(errors='replace')}"
        if status not in _REFUSED:
            raise Away(f"it answers {status}", retry_after)
        if status != _TOO_LARGE and not self.has_taken:
            raise TakesNone(f"it takes none of them, {why}")
        if len(spans) > 1:  # one bad span, or too many at once
            middle = len(spans) // 2
            await self._deliver(spans[:middle])
            await self._deliver(spans[middle:])
        else:
            self._refusals.append((1, why))

    async def _post(self, body: bytes) -> tuple[int, bytes, float]:
        headers = {**self._target.headers, "Content-Type": _KIND, "Content-Encoding": "gzip"}
        try:
            async with self._session.post(
                self._target.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                answer = await response.content.read(LARGEST_ANSWER)
                return response.status, answer, _seconds(response.headers.get("retry-after", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Away(f"it cannot be reached: {type(error).__name__}") from None

    def _note_partial(self, answer: bytes) -> None:
        try:
            partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:  # some answer 200 in JSON, or in words
            return
        if partial.rejected_spans > 0:
            self._refusals.append((partial.rejected_spans, partial.error_message))

    def _reject(self) -> int:
        """Give up what it does not take of a batch that is done with: how many."""
        for count, why in self._refusals:
            logger.warning("%s does not take %s: %s", self._target.name, spans_in_words(count), why)
        rejected = sum(count for count, _ in self._refusals)
        self.rejected += rejected
        return rejected


def spans_in_words(count: int) -> str:
    """So many spans, for a sentence."""
    return "1 span" if count == 1 else f"{count} spans"


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdigit() else 0.0
