"""For all tests: which begin, the figures they print, how thoroughly Hypothesis looks, and whose spools are sent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: at the end no worker is to wait for one that has just begun with them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def own_spools(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a test's runner could not send is no business of the next test, on the same port."""
    pytest.MonkeyPatch().setenv("AGL_SPOOL_DIR", str(tmp_path_factory.mktemp("spools")))


# Where the tests are started in the background Ctrl-C is ignored, which all processes of a test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with suppress(ValueError):  # in another thread than the main one
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
    """Takes what was counted, tries and failures; all figures stand together at the end of the run."""
    return lambda counted: record_property("figure", str(counted))


def pytest_terminal_summary(terminalreporter: Any) -> None:
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
