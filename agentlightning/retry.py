"""Retry delays: exponential backoff with jitter, for all components that retry failed calls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class RetryPolicy:
    """Delays between retries, in seconds. They double from `first_delay` up to `max_delay`."""

    first_delay: float
    max_delay: float

    def delay(self, retries: int) -> float:
        """Return the time to wait before the next retry, in seconds. `retries` is the number of earlier retries.

        Random jitter removes up to half of the delay. Otherwise, callers that failed at the same time would also retry
        at the same time.
        """
        return min(self.max_delay, self.first_delay * 2 ** min(retries, 30)) * random.uniform(0.5, 1.0)

    def delays(self) -> Iterator[float]:
        """Yield the delay before each successive retry of one call. The iterator never ends."""
        return map(self.delay, count())
