"""PydanticAI is instrumented while it is traced. The framework matrix tests the library itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from agentlightning.tracer import LightningTracer


def _library(settings: Any) -> Any:
    class Agent:
        _instrument_default: Any = settings

        @staticmethod
        def instrument_all(instrument: Any = True) -> None:
            Agent._instrument_default = instrument

    return SimpleNamespace(Agent=Agent)


def test_library_is_instrumented_while_a_tracer_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _library(False)
    monkeypatch.setitem(sys.modules, "pydantic_ai", library)

    with LightningTracer().lifespan():
        assert library.Agent._instrument_default is True
    assert library.Agent._instrument_default is False


async def test_library_imported_later_is_instrumented_with_the_next_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _library(False)
    with LightningTracer().lifespan() as tracer:
        monkeypatch.setitem(sys.modules, "pydantic_ai", library)
        async with tracer.trace_context():
            assert library.Agent._instrument_default is True
    assert library.Agent._instrument_default is False


def test_settings_of_the_user_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _library("the user's own")
    monkeypatch.setitem(sys.modules, "pydantic_ai", library)

    with LightningTracer().lifespan():
        assert library.Agent._instrument_default == "the user's own"
    assert library.Agent._instrument_default == "the user's own"


def test_partly_imported_library_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_ai", SimpleNamespace())

    with LightningTracer().lifespan() as tracer:
        assert tracer.is_set_up
