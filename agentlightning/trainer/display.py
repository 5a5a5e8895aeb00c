"""What a person sees of a run: a live line on a terminal, now and then a plain one elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .callbacks import Callback, Progress
from .result import RunResult

PLAIN_SECONDS: Final = 10.0
"""How often a line is printed where it cannot be replaced by the next."""
REASONS: Final = 3
"""How many reasons of failures are told in the end."""


class Display(Callback):
    """Speaks on stderr, so that what the script prints stays its own.

    Without `live` it prints plain lines on a terminal too, which leave a debugger its prompt.
    """

    def __init__(self, *, live: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._may_live = live and self._console.is_terminal
        self._live: Live | None = None
        self._said = time.monotonic()
        self._last = ""

    def on_start(self, folder: Path) -> None:
        self._console.print(f"Run {folder.name} in {folder}", markup=False)
        if self._may_live:
            self._live = Live(
                Text("starting …"),
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe goes there
            )
            self._live.start()

    def on_progress(self, progress: Progress) -> None:
        self._last = line(progress)
        if self._live:
            self._live.update(Text(self._last, style="cyan"))
        elif time.monotonic() - self._said >= PLAIN_SECONDS:
            self._say(self._last)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        self._say(f"{'' if step is None else f'step {step}: '}{shown}")

    def on_end(self, result: RunResult) -> None:
        if self._live:
            self._live.stop()
        if self._last:
            self._say(self._last)
        for reason in failed(result):
            self._say(reason)
        if summary := result.report.get("summary"):
            self._say(str(summary))
        self._say(ending(result))

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, markup=False)


def line(progress: Progress) -> str:
    """Progress in one line."""
    parts = [
        f"{progress.done} done",
        f"{progress.failed} failed" if progress.failed else "",
        f"{progress.running} running" if progress.running else "",
        f"{progress.queued} queued" if progress.queued else "",
        "" if progress.mean_reward is None else f"mean reward {progress.mean_reward:.3f}",
        f"{progress.rate:.1f}/s" if progress.rate else "",
        "" if progress.seconds_left is None else f"{_duration(progress.seconds_left)} left",
    ]
    return f"[{_duration(progress.seconds)}] " + ", ".join(part for part in parts if part)


def ending(result: RunResult) -> str:
    """The last line: how it ended, and where everything lies."""
    counted = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items())) or "no rollouts"
    mean = "" if result.mean_reward is None else f", mean reward {result.mean_reward:.3f}"
    return (
        f"Run {result.name} {result.status} after {result.seconds:.1f} s: {counted}{mean}. It lies in {result.folder}"
    )


def failed(result: RunResult) -> list[str]:
    """Why rollouts have failed, the most frequent reasons first."""
    reasons = list(result.failures.items())
    more = len(reasons) - REASONS
    lines = [f"  {count} failed: {reason}" for reason, count in reasons[:REASONS]]
    return [*lines, f"  … and {more} more reasons, see log.txt"] if more > 0 else lines


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
