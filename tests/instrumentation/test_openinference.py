"""OpenInference's instrumentors, found by their entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from agentlightning.instrumentation import frameworks
from agentlightning.tracer import LightningTracer


class Instrumentor:
    """The public interface of OpenTelemetry's `BaseInstrumentor`."""

    log: ClassVar[list[str]] = []
    is_instrumented_by_opentelemetry = False

    def instrument(self, **_: Any) -> None:
        self.log.append(f"instrument {type(self).__name__}")

    def uninstrument(self) -> None:
        self.log.append(f"uninstrument {type(self).__name__}")


class Applied(Instrumentor):
    is_instrumented_by_opentelemetry = True


class Conflicting(Instrumentor):
    def instrument(self, **_: Any) -> None:
        raise ImportError("the library to instrument is missing")


@pytest.mark.parametrize(("wire_tap", "applied"), [("on", 1), ("off", 2)])
def test_instrumentors_are_applied_and_those_of_tapped_sdks_only_without_the_tap(
    monkeypatch: pytest.MonkeyPatch, wire_tap: str, applied: int
) -> None:
    Instrumentor.log.clear()
    monkeypatch.setenv("AGL_WIRE_TAP", wire_tap)
    names = {
        "langchain": "Instrumentor",
        "mcp": "Applied",
        "dspy": "Conflicting",
        "openai": "Instrumentor",
        "x": "Gone",
    }
    found = [EntryPoint(name, f"{__name__}:{value}", "openinference_instrumentor") for name, value in names.items()]
    monkeypatch.setattr(frameworks, "entry_points", lambda group: found)

    with LightningTracer().lifespan():
        assert Instrumentor.log == ["instrument Instrumentor"] * applied
    assert Instrumentor.log[applied:] == ["uninstrument Instrumentor"] * applied
