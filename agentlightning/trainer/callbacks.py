"""Callbacks: who wants to know how a run goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import MissingExtra
from .result import RunResult


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    seconds: float
    """Since it began."""
    queued: int
    running: int
    succeeded: int
    failed: int
    """Cancelled ones included."""
    mean_reward: float | None
    rate: float
    """Rollouts ended a second, lately."""

    @property
    def done(self) -> int:
        """Rollouts that have ended."""
        return self.succeeded + self.failed

    @property
    def seconds_left(self) -> float | None:
        """Until what is queued and running now has ended, at this rate."""
        left = self.queued + self.running
        return left / self.rate if self.rate and left else None

    def as_metrics(self) -> dict[str, Any]:
        """Numbers by name."""
        return {
            "rollouts/queued": self.queued,
            "rollouts/running": self.running,
            "rollouts/succeeded": self.succeeded,
            "rollouts/failed": self.failed,
            "rollouts/mean_reward": self.mean_reward,
            "rollouts/per_second": round(self.rate, 3),
        }


class Callback:
    """Override what you want to hear of. Called from a thread beside the algorithm's, one call at a time."""

    def on_start(self, folder: Path) -> None:
        """The run begins; `folder` is its own."""

    def on_progress(self, progress: Progress) -> None:
        """About once a second while rollouts end, and at the end."""

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        """The algorithm tells numbers by name."""

    def on_end(self, result: RunResult) -> None:
        """The run is over."""


class JsonLines(Callback):
    """Appends everything to `metrics.jsonl` in the run's folder."""

    def on_start(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"

    def on_progress(self, progress: Progress) -> None:
        self._write(progress.as_metrics(), None)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        self._write(values, step)

    def _write(self, values: Mapping[str, Any], step: int | None) -> None:
        line: dict[str, Any] = {"time": round(time.time(), 3)}
        if step is not None:
            line["step"] = step
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **values}, default=str) + "\n")


class TensorBoard(Callback):
    """Writes the same for TensorBoard, into `folder` or into `tensorboard/` in the run's folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            self._library: Any = import_module("tensorboardX")
        except ImportError:
            raise MissingExtra("tensorboard", wanted_for="the TensorBoard callback") from None
        self._folder = folder

    def on_start(self, folder: Path) -> None:
        self._writer = self._library.SummaryWriter(str(self._folder or folder / "tensorboard"))

    def on_progress(self, progress: Progress) -> None:
        self._add(progress.as_metrics(), progress.done)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        self._add(values, step)

    def on_end(self, result: RunResult) -> None:
        self._writer.close()

    def _add(self, values: Mapping[str, Any], step: int | None) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
