"""What may be said of two prompts that were tried on the same tasks: means, errors, and the paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

from pydantic import BaseModel

FEWEST_PAIRS: Final = 5
"""Fewer tasks show nothing, however they come out."""


class Estimate(BaseModel):
    """A mean and how far it can be trusted."""

    mean: float | None
    standard_error: float | None
    n: int

    def __str__(self) -> str:
        if self.mean is None:
            return "no reward"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return f"{self.mean:.3f}{error} (n={self.n})"


class Difference(BaseModel):
    """How much better one prompt is than another on the same tasks, with a 95 % confidence interval."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Tasks that both have a score for."""

    @property
    def is_improvement(self) -> bool:
        """The whole interval is above zero."""
        return self.low is not None and self.low > 0

    def __str__(self) -> str:
        if self.mean is None:
            return "nothing to compare"
        if self.low is None:
            return f"{self.mean:+.3f} on {self.n} tasks, too few for an interval"
        return f"{self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.n} tasks"


def estimate(scores: Sequence[float | None]) -> Estimate:
    """Mean and standard error of the scores that there are."""
    known = [score for score in scores if score is not None]
    if not known:
        return Estimate(mean=None, standard_error=None, n=0)
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Estimate(mean=fmean(known), standard_error=error, n=len(known))


def paired_difference(better: Sequence[float | None], base: Sequence[float | None]) -> Difference:
    """`better` minus `base`, task by task; tasks where either has no score are left out."""
    pairs = [b - a for a, b in zip(base, better, strict=True) if a is not None and b is not None]
    n = len(pairs)
    if n < FEWEST_PAIRS:
        return Difference(mean=fmean(pairs) if pairs else None, low=None, high=None, n=n)
    mean = fmean(pairs)
    margin = t_quantile(0.975, n - 1) * stdev(pairs) / math.sqrt(n)
    return Difference(mean=mean, low=mean - margin, high=mean + margin, n=n)


def t_quantile(probability: float, freedom: int) -> float:
    """Student's t: the expansion of Abramowitz and Stegun 26.7.5, within 0.4 % from 4 degrees of freedom on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
