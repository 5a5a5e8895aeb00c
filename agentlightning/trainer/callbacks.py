"""Callbacks, which receive the progress, metrics and result of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import MissingExtra
from ..private_files import create_private_file
from .result import RunResult


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run at one point in time."""

    seconds: float
    """Seconds since the start of the run."""
    queued: int
    running: int
    succeeded: int
    failed: int
    """Number of failed or cancelled rollouts."""
    mean_reward: float | None
    rate: float
    """Recent completion rate, in rollouts per second."""

    @property
    def done(self) -> int:
        """Number of completed rollouts: succeeded, failed or cancelled."""
        return self.succeeded + self.failed

    @property
    def seconds_left(self) -> float | None:
        """Estimated time in seconds until all queued and running rollouts are completed.

        None if there are no such rollouts, or if `rate` is 0.
        """
        left = self.queued + self.running
        return left / self.rate if self.rate and left else None

    def as_metrics(self) -> dict[str, Any]:
        """Return the rollout counts, mean reward and completion rate as a dict that maps metric names to values."""
        return {
            "rollouts/queued": self.queued,
            "rollouts/running": self.running,
            "rollouts/succeeded": self.succeeded,
            "rollouts/failed": self.failed,
            "rollouts/mean_reward": self.mean_reward,
            "rollouts/per_second": round(self.rate, 3),
        }


class Callback:
    """Base class for callbacks. Methods are called one at a time.

    `on_progress` and `on_metrics` are called in a separate thread, so a slow callback does not delay the algorithm.
    """

    def on_start(self, folder: Path) -> None:
        """Handle the start of the run. Its files are saved in `folder`."""

    def on_progress(self, progress: RunProgress) -> None:
        """Handle progress. Called if the number of queued, running or completed rollouts has changed.

        Changes are detected about once a second, or less often if the store is large.
        """

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        """Handle metrics that the algorithm has logged. `step` is None if the algorithm did not specify a step."""

    def on_end(self, result: RunResult) -> None:
        """Handle the end of the run."""


class JsonLines(Callback):
    """Appends progress and metrics to `metrics.jsonl` in the run's folder."""

    def on_start(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        create_private_file(self._file)

    def on_progress(self, progress: RunProgress) -> None:
        self.on_metrics(progress.as_metrics(), None)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        at_step = {} if step is None else {"step": step}
        line = {"time": round(time.time(), 3), **at_step, **values}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


class TensorBoard(Callback):
    """Writes progress and metrics for TensorBoard to `folder`, by default `tensorboard/` in the run's folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            self._library: Any = import_module("tensorboardX")
        except ImportError:
            raise MissingExtra("tensorboard", wanted_for="the TensorBoard callback") from None
        self._folder = folder

    def on_start(self, folder: Path) -> None:
        self._writer = self._library.SummaryWriter(str(self._folder or folder / "tensorboard"))

    def on_progress(self, progress: RunProgress) -> None:
        self.on_metrics(progress.as_metrics(), progress.done)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def on_end(self, result: RunResult) -> None:
        self._writer.close()
