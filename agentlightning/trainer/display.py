"""Progress output for a run: a live status line on a terminal, or occasional plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..logs import escape_controls
from .callbacks import Callback, RunProgress
from .result import RunResult

PLAIN_INTERVAL: Final = 10.0
"""Minimum number of seconds between plain status lines."""
MAX_REASONS: Final = 3
"""Maximum number of failure reasons shown at the end of a run."""


class Display(Callback):
    """Prints the progress of a run to stderr, so that stdout contains only the script's own output.

    With `live=False`, plain lines are printed even on a terminal. Use this setting with a debugger: a live status line
    would interfere with the debugger's prompt.
    """

    def __init__(self, *, live: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._use_live = live and self._console.is_terminal
        self._live: Live | None = None
        self._last_print = time.monotonic()
        self._last_line = ""

    def on_start(self, folder: Path) -> None:
        self._print(f"Run {folder.name} in {folder}")
        if self._use_live:
            self._live = Live(
                Text("starting …"),
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # do not redirect output to a file or a pipe
            )
            self._live.start()

    def on_progress(self, progress: RunProgress) -> None:
        self._last_line = progress_line(progress)
        if self._live:
            self._live.update(Text(self._last_line, style="cyan"))
        elif time.monotonic() - self._last_print >= PLAIN_INTERVAL:
            self._print(self._last_line)

    def on_metrics(self, values: Mapping[str, Any], step: int | None) -> None:
        shown = ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        self._print(escape_controls(f"{'' if step is None else f'step {step}: '}{shown}"))

    def on_end(self, result: RunResult) -> None:
        if self._live:
            self._live.stop()
        summary = str(result.report.get("summary") or "")
        for line in [self._last_line, *failure_lines(result), summary, result_line(result)]:
            if line:
                self._print(line)

    def _print(self, text: str) -> None:
        self._last_print = time.monotonic()
        # Metrics, failures and summaries may contain text from a model.
        self._console.print(escape_controls(text, keep_lines=True), markup=False, emoji=False)


def progress_line(progress: RunProgress) -> str:
    """Format the progress as one line."""
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


def result_line(result: RunResult) -> str:
    """Format the result and the run's folder as one line."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items())) or "no rollouts"
    mean = "" if result.mean_reward is None else f", mean reward {result.mean_reward:.3f}"
    return f"Run {result.name} {result.status} after {result.seconds:.1f} s: {counts}{mean}. Saved to {result.folder}"


def failure_lines(result: RunResult) -> list[str]:
    """Format the most frequent reasons for failed rollouts, one per line.

    If there are more than `MAX_REASONS` reasons, an additional line shows the number of omitted reasons.
    """
    reasons = list(result.failures.items())
    more = len(reasons) - MAX_REASONS
    lines = [f"  {count} failed: {escape_controls(reason)}" for reason, count in reasons[:MAX_REASONS]]
    return [*lines, f"  … and {more} more reasons, see log.txt"] if more > 0 else lines


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
