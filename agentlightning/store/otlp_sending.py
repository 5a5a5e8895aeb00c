"""One batch of spans on its way to an OTLP/HTTP receiver, and what its answer means."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Sequence

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .otlp_encoding import Encoded, encoded, request_of
from .otlp_target import Target

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
LARGEST_ANSWER = 64 * 1024
LONGEST_RETRY_AFTER = 300.0

_KIND = "application/x-protobuf"
_REFUSED = frozenset({400, 413, 422})
"""Statuses after which the same request would be refused again."""


class Away(Exception):
    """The target takes nothing just now."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Sender:
    """Sends spans to one target, and counts those that it will never take."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self.rejected = 0
        self._session = session
        self._target = target
        self._has_taken = False
        """Whether it has ever taken a span: until then, a refusal may be about the request and not about the span."""
        self._refusals: list[str] = []
        """What it said of spans that it did not take alone."""

    async def send(self, payloads: Sequence[bytes]) -> int:
        """Return when each span is sent or rejected: how many were sent. Raises `Away`."""
        rejected_before, self._refusals = self.rejected, []
        spans: list[Encoded] = []
        for payload in payloads:
            try:
                spans.append(encoded(payload))
            except Exception as error:
                self._reject(1, f"a span cannot be written as OTLP: {error!r}")
            await asyncio.sleep(0)  # lets go of the interpreter: whoever serves requests goes first
        if spans:
            await self._deliver(spans)
            self._judge()
        return len(payloads) - (self.rejected - rejected_before)

    async def _deliver(self, spans: Sequence[Encoded]) -> None:
        status, answer, retry_after = await self._post(gzip.compress(request_of(spans), compresslevel=1))
        if status == 200:
            self._has_taken = True
            self._note_partial(answer)
        elif status not in _REFUSED:
            raise Away(f"it answers {status}", retry_after)
        elif len(spans) > 1:  # one bad span, or too many at once
            middle = len(spans) // 2
            await self._deliver(spans[:middle])
            await self._deliver(spans[middle:])
        else:
            self._refusals.append(f"{status}: {answer[:300].decode(errors='replace')}")

    def _judge(self) -> None:
        """Give up the spans that were refused; all wait where none was ever taken, for then a header may be missing."""
        if self._refusals and not self._has_taken:
            raise Away(f"it takes none of them, {self._refusals[0]}")
        for why in self._refusals:
            self._reject(1, why)

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
            self._reject(partial.rejected_spans, partial.error_message)

    def _reject(self, count: int, why: str) -> None:
        self.rejected += count
        logger.warning("%s does not take %s: %s", self._target.name, spans_in_words(count), why)


def spans_in_words(count: int) -> str:
    """So many spans, for a sentence."""
    return "1 span" if count == 1 else f"{count} spans"


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdigit() else 0.0
