"""Retry delays: exponential backoff with jitter, shared by all components that retry."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class RetryPolicy:
    """Delays that double from `first_delay` up to `max_delay`, in seconds."""

    first_delay: float
    max_delay: float

    def delay(self, retries: int) -> float:
        """Return the seconds to wait before the next retry, after `retries` earlier ones (0, 1, 2, …).

        Jitter removes up to half of the delay, so that callers that failed together do not all retry together.
        """
        return min(self.max_delay, self.first_delay * 2 ** min(retries, 30)) * random.uniform(0.5, 1.0)

    def delays(self) -> Iterator[float]:
        """Yield the delays before the successive retries of one call, indefinitely."""
        return map(self.delay, count())
