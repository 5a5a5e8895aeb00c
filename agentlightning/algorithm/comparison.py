"""Statistics for two prompts evaluated on the same tasks: means, standard errors, and the paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

from pydantic import BaseModel

MIN_PAIRS: Final = 5
"""Minimum number of tasks for a confidence interval, counting only tasks that have scores for both prompts.

With fewer tasks, the interval is not computed and an improvement is never reported."""


class Estimate(BaseModel):
    """The mean of `n` scores, with its standard error.

    `mean` is None if there are no scores, and `standard_error` is None if there are fewer than two.
    """

    mean: float | None
    standard_error: float | None
    n: int

    def __str__(self) -> str:
        if self.mean is None:
            return "no reward"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return f"{self.mean:.3f}{error} (n={self.n})"


class Difference(BaseModel):
    """Mean difference between the scores of two prompts on the same tasks, with a 95 % confidence interval.

    `mean` is None if none of the tasks has a score for both prompts.
    """

    mean: float | None
    low: float | None
    high: float | None
    """`low` and `high` are the bounds of the confidence interval, or None if there are too few tasks."""
    n: int
    """Number of tasks that have a score for both prompts."""

    @property
    def is_improvement(self) -> bool:
        """True if the whole confidence interval is above zero."""
        return self.low is not None and self.low > 0

    def __str__(self) -> str:
        if self.mean is None:
            return "unknown (no common scores)"
        if self.low is None:
            return f"{self.mean:+.3f} on {self.n} tasks, too few for a confidence interval"
        return f"{self.mean:+.3f}, 95 % CI {self.low:+.3f} to {self.high:+.3f}, {self.n} tasks"


def estimate(scores: Sequence[float | None]) -> Estimate:
    """Return the mean and standard error of the scores, ignoring those that are None."""
    known = [score for score in scores if score is not None]
    if not known:
        return Estimate(mean=None, standard_error=None, n=0)
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Estimate(mean=fmean(known), standard_error=error, n=len(known))


def paired_difference(better: Sequence[float | None], base: Sequence[float | None]) -> Difference:
    """Return the mean difference `better` minus `base`, and its confidence interval, for the tasks with both scores.

    Each sequence contains one score, or None, for every task. The tasks are in the same order in both.
    """
    pairs = [b - a for a, b in zip(base, better, strict=True) if a is not None and b is not None]
    mean, n = fmean(pairs) if pairs else None, len(pairs)
    if mean is None or n < MIN_PAIRS:
        return Difference(mean=mean, low=None, high=None, n=n)
    margin = t_quantile(0.975, n - 1) * stdev(pairs) / math.sqrt(n)
    return Difference(mean=mean, low=mean - margin, high=mean + margin, n=n)


def t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Return a quantile of Student's t distribution.

    Uses equation 26.7.5 from Abramowitz and Stegun, which is accurate to 0.4 % for 4 or more degrees of freedom.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees_of_freedom**power for power, term in enumerate(terms))
