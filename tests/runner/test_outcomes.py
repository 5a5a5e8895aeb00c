"""What an agent returns or raises, and what the store then knows."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sys
from fractions import Fraction
from typing import Any

import pytest

import agentlightning as agl
from agentlightning import semconv
from agentlightning.runner.outcome import MAX_TRACEBACK

from .conftest import Workshop


def agent_returning(value: Any) -> Any:
    def agent(task):
        return value

    return agent


# What it returns


@pytest.mark.parametrize(("value", "reward"), [(0.5, 0.5), (1, 1.0), (True, 1.0), (False, 0.0), (Fraction(1, 4), 0.25)])
async def test_a_number_is_the_final_reward(workshop: Workshop, value: Any, reward: float):
    rollout = await workshop.run_one(agent_returning(value))

    assert rollout.status == "succeeded"
    assert agl.find_final_reward(await workshop.spans(rollout)) == reward


async def test_none_adds_nothing(workshop: Workshop):
    rollout = await workshop.run_one(agent_returning(None))

    assert rollout.status == "succeeded"
    assert await workshop.spans(rollout) == []


async def test_returned_spans_are_stored_as_the_attempts_own(workshop: Workshop):
    foreign = agl.Span.from_attributes(attributes={"n": 1}, name="foreign", rollout_id="ro-else", attempt_id="at-else")
    core = agl.SpanCoreFields(name="core", attributes={"n": 2})

    rollout = await workshop.run_one(agent_returning([foreign, core]))

    spans = await workshop.spans(rollout)
    assert [(span.name, span.attributes["n"], span.sequence_id) for span in spans] == [
        ("foreign", 1, 1),
        ("core", 2, 2),
    ]
    assert {span.attempt_id for span in spans} == {rollout.attempt.attempt_id}


async def test_returned_opentelemetry_spans_are_stored(workshop: Workshop):
    from opentelemetry.sdk.trace import TracerProvider

    def agent(task):
        with TracerProvider(shutdown_on_exit=False).get_tracer("mine").start_as_current_span("otel") as span:
            pass
        return [span]

    rollout = await workshop.run_one(agent)

    assert [span.name for span in await workshop.spans(rollout)] == ["otel"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            "text",
            "AgentError: agent agent returned a str; an agent returns its reward (float, int or bool), a list of ",
        ),
        ({"reward": 1}, "AgentError: agent agent returned a dict; an agent"),
        ([1.0], "AgentError: agent agent returned a list with float in it; an agent"),
        ((0.5, "info"), "AgentError: agent agent returned a tuple with float in it; an agent"),
        (math.nan, "AgentError: agent agent returned nan as its reward; a reward is a finite number"),
        (10**400, "AgentError: agent agent returned inf as its reward; a reward is a finite number"),
    ],
)
async def test_anything_else_fails_the_attempt_and_names_the_type(workshop: Workshop, value: Any, complaint: str):
    rollout = await workshop.run_one(agent_returning(value))

    assert rollout.status == "failed"
    assert rollout.attempt.metadata["reason"].startswith(complaint)
    assert agl.find_final_reward(await workshop.spans(rollout)) is None


async def test_spans_that_the_store_refuses_fail_the_attempt(workshop: Workshop):
    bad = agl.SpanCoreFields(name="bad", attributes={"x": math.nan})

    rollout = await workshop.run_one(agent_returning([bad]))

    assert rollout.status == "failed"
    assert "nan" in rollout.attempt.metadata["reason"]


# What it raises


async def test_an_exception_fails_the_attempt_with_its_reason_its_traceback_and_a_span(workshop: Workshop):
    def deep():
        raise ValueError("no such city")

    async def agent(task):
        deep()

    rollout = await workshop.run_one(agent)

    assert rollout.status == "failed"
    assert rollout.attempt.status == "failed"
    assert rollout.attempt.metadata["reason"] == "ValueError: no such city"
    lines = rollout.attempt.metadata["traceback"].splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "ValueError: no such city")
    assert "in agent" in lines[1]  # our own frames are not in the way
    assert [span.name for span in await workshop.spans(rollout)] == [semconv.EXCEPTION]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(), "RuntimeError"),
        (KeyError("city"), "KeyError: key 'city'"),
        (SystemExit(3), "SystemExit: the agent asked Python to exit (3)"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(1), "StopIteration: 1"),
        (GeneratorExit(), "GeneratorExit"),
        (ValueError("half a pair: \ud800, nul: \0"), "ValueError: half a pair: ?, nul: \ufffd"),
        (Unprintable(), "Unprintable: (its message cannot be shown)"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_escapes_is_data(workshop: Workshop, kind: str, error: BaseException, reason: str):
    def sync_agent(task):
        raise error

    async def async_agent(task):
        raise error

    if kind == "async" and isinstance(error, StopIteration):
        reason = "RuntimeError: coroutine raised StopIteration"

    failed, next_one = await workshop.run(sync_agent if kind == "sync" else async_agent, "a", "b")

    assert failed.attempt.metadata["reason"] == reason
    assert (failed.status, next_one.status) == ("failed", "failed")


async def test_sys_exit_in_an_agent_ends_the_attempt_only(workshop: Workshop):
    def agent(task):
        if task == "bad":
            sys.exit("enough")
        return 1.0

    rollouts = await workshop.run(agent, "bad", "good")

    assert [rollout.status for rollout in rollouts] == ["failed", "succeeded"]


async def test_a_traceback_is_kept_in_bounds(workshop: Workshop):
    def agent(task):
        raise ValueError("x" * 100_000)

    rollout = await workshop.run_one(agent)

    assert len(rollout.attempt.metadata["reason"]) == 2_000
    assert len(rollout.attempt.metadata["traceback"]) < MAX_TRACEBACK + 100
    assert "characters left out" in rollout.attempt.metadata["traceback"]


async def test_a_missing_resource_fails_the_attempt_and_names_it(workshop: Workshop):
    def agent(task, prompt_template):
        pass

    await workshop.store.add_resources({"model": agl.LLM(endpoint="http://m/v1", model="m")})

    rollout = await workshop.run_one(agent)

    assert rollout.attempt.metadata["reason"] == (
        "ResourceMissing: agent agent asks for 'prompt_template' (PromptTemplate), "
        f"but the resources of rollout {rollout.rollout_id} are 'model' (LLM)"
    )


async def test_an_agent_that_awaits_by_itself_is_understood(workshop: Workshop):
    async def work():
        return 0.25

    rollout = await workshop.run_one(lambda task: work())

    assert agl.find_final_reward(await workshop.spans(rollout)) == 0.25


# What the log says


async def test_the_log_tells_how_it_went_as_the_tutorial_shows_it(workshop: Workshop, caplog: pytest.LogCaptureFixture):
    def agent(task):
        if task == "bad":
            raise ValueError("no such city")
        return 0.95

    with caplog.at_level(logging.INFO, logger="agentlightning"):
        good, bad = await workshop.run(agent, "good", "bad")

    lines = [record.getMessage() for record in caplog.records]
    assert "[Worker 0] Setting up tracer..." in lines
    assert "[Worker 0] Instrumentation applied." in lines
    assert "[Worker 0] Started async rollouts (max: 2)." in lines
    [completed] = [line for line in lines if "Completed" in line]
    about_it = re.escape(f"[Worker 0 | Rollout {good.rollout_id}] ")
    assert re.fullmatch(about_it + r"Completed in \d+\.\d\ds\. 1 span, final reward 0\.95\.", completed)
    [failed] = [line for line in lines if "Failed" in line]
    first, _, traceback = failed.partition("\n")
    about_it = re.escape(f"[Worker 0 | Rollout {bad.rollout_id}] ")
    assert re.fullmatch(
        about_it + r"Failed in \d+\.\d\ds\. ValueError: no such city \(1 span, final reward None\.\)", first
    )
    assert traceback == bad.attempt.metadata["traceback"]
