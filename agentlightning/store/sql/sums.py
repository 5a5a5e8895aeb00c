"""Sums over a run's rollouts, in the order they were made: how many of each status, and what they were worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ...types import RolloutMode
from ..db.database import Row

MOST_STEPS = 200
"""Points of the reward curve; each is an equal share of the rollouts. As the run grows, two become one."""
NARROWEST = 8
"""Fewer rewards than this say little by their mean."""

Sum = tuple[int, float, float]
"""How many, their sum, and the sum of their squares."""


class Sums:
    """What is known of the rollouts from `first` up to, but not including, `until`."""

    def __init__(self, first: int, width: int = NARROWEST) -> None:
        self.first = first
        self.until = first
        self.width = width
        self.statuses = Counter[str]()
        self.steps: dict[tuple[int, RolloutMode | None], Sum] = {}
        self.versions: dict[tuple[str, int], dict[RolloutMode | None, Sum]] = {}

    def wide_enough_for(self, last: int) -> Sums:
        """A copy whose steps are so wide that there are not too many of them."""
        copy = Sums(self.first, self.width)
        copy.until = self.until
        copy.statuses = self.statuses.copy()
        copy.versions = {version: by_mode.copy() for version, by_mode in self.versions.items()}
        while last - self.first >= MOST_STEPS * copy.width:
            copy.width *= 2
        for (step, mode), known in self.steps.items():
            _add(copy.steps, (step * self.width // copy.width, mode), known)
        return copy

    def add(self, rows: Iterable[Row], until: int) -> None:
        """Rows of: step, mode, resources, their version, status, how many, rewards, their sum, their squares."""
        for step, mode, resources_id, version, status, count, *amounts in rows:
            self.statuses[status] += count
            if amounts[0]:
                _add(self.steps, (step, mode), (amounts[0], amounts[1], amounts[2]))
                if resources_id is not None:
                    _add(
                        self.versions.setdefault((resources_id, version), {}),
                        mode,
                        (amounts[0], amounts[1], amounts[2]),
                    )
        self.until = max(self.until, until)


def score(count: int, total: float, squares: float) -> dict[str, Any]:
    """Count, mean and standard deviation."""
    mean = total / count
    variance = max(0.0, squares - total * mean) / (count - 1) if count > 1 else 0.0
    return {"count": count, "mean": mean, "deviation": variance**0.5}


def _add(sums: dict[Any, Sum], key: Any, more: Sum) -> None:
    count, total, squares = sums.get(key, (0, 0.0, 0.0))
    sums[key] = (count + more[0], total + more[1], squares + more[2])
