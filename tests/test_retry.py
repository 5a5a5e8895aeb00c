"""Retry delays."""

from __future__ import annotations

from itertools import islice

from agentlightning.retry import RetryPolicy


def test_delays_double_up_to_the_maximum_with_jitter_of_at_most_half() -> None:
    limits = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for _ in range(50):
        delays = list(islice(RetryPolicy(first_delay=0.1, max_delay=1.0).delays(), len(limits)))
        assert all(limit / 2 <= delay <= limit for delay, limit in zip(delays, limits, strict=True))


def test_delay_stays_at_the_maximum_after_any_number_of_retries() -> None:
    assert 0.5 <= RetryPolicy(first_delay=0.1, max_delay=1.0).delay(10_000) <= 1.0
