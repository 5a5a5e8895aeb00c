"""Fixtures: a model server, an OpenAI client, and readers of the spans that the wire tap recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import OpenAI

from agentlightning.tracer import LightningTracer
from agentlightning.types import Span
from tests.scripted_model import ScriptedModel


@pytest.fixture(scope="session")
def running_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def model(running_model: ScriptedModel) -> ScriptedModel:
    return running_model.reset()


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[OpenAI]:
    with OpenAI(base_url=model.base_url, api_key="sk-secret-0123456789", max_retries=0) as client:
        yield client


@asynccontextmanager
async def recorded() -> AsyncIterator[list[Span]]:
    """Record the calls of the block; the list of spans is filled at its end."""
    tracer, spans = LightningTracer(), list[Span]()
    try:
        async with tracer.trace_context():
            yield spans
    finally:
        spans.extend(tracer.get_last_trace())


def raw(span: Span, side: str) -> Any:
    """Return the recorded request or response body."""
    return json.loads(span.attributes[f"agentlightning.{side}"])


def gen_ai(span: Span, *names: str) -> dict[str, Any]:
    """Return some of the `gen_ai.` attributes, by their names without this prefix."""
    return {name: span.attributes.get(f"gen_ai.{name}") for name in names}
