"""Retry delays: exponential backoff with jitter, one policy for every part that tries again."""

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
        """Return the seconds to wait after `retries` earlier retries (0, 1, 2, …).

        Jitter takes up to half of the delay away, so that callers that failed together do not return together.
        """
        return min(self.max_delay, self.first_delay * 2 ** min(retries, 30)) * random.uniform(0.5, 1.0)

    def delays(self) -> Iterator[float]:
        """Yield the delays of one call, without end."""
        return map(self.delay, count())
