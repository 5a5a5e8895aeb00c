"""Return values and errors of agents, and the outcomes stored for them."""

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

from .conftest import Harness


def agent_returning(value: Any) -> Any:
    def agent(task):
        return value

    return agent


# Return values


@pytest.mark.parametrize(("value", "reward"), [(0.5, 0.5), (1, 1.0), (True, 1.0), (False, 0.0), (Fraction(1, 4), 0.25)])
async def test_returned_number_is_the_final_reward(harness: Harness, value: Any, reward: float):
    rollout = await harness.run_one(agent_returning(value))

    assert rollout.status == "succeeded"
    assert agl.find_final_reward(await harness.spans(rollout)) == reward


async def test_returned_none_adds_nothing(harness: Harness):
    rollout = await harness.run_one(agent_returning(None))

    assert rollout.status == "succeeded"
    assert await harness.spans(rollout) == []


async def test_returned_spans_are_attached_to_the_attempt(harness: Harness):
    foreign = agl.Span.from_attributes(attributes={"n": 1}, name="foreign", rollout_id="ro-else", attempt_id="at-else")
    core = agl.SpanCoreFields(name="core", attributes={"n": 2})

    rollout = await harness.run_one(agent_returning([foreign, core]))

    spans = await harness.spans(rollout)
    assert [(span.name, span.attributes["n"], span.sequence_id) for span in spans] == [
        ("foreign", 1, 1),
        ("core", 2, 2),
    ]
    assert {span.attempt_id for span in spans} == {rollout.attempt.attempt_id}


async def test_returned_opentelemetry_spans_are_stored(harness: Harness):
    from opentelemetry.sdk.trace import TracerProvider

    def agent(task):
        with TracerProvider(shutdown_on_exit=False).get_tracer("mine").start_as_current_span("otel") as span:
            pass
        return [span]

    rollout = await harness.run_one(agent)

    assert [span.name for span in await harness.spans(rollout)] == ["otel"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            "text",
            "AgentError: agent agent returned a str; return the reward (float, int or bool), a list of ",
        ),
        ({"reward": 1}, "AgentError: agent agent returned a dict; return"),
        ([1.0], "AgentError: agent agent returned a list that contains float; return"),
        ((0.5, "info"), "AgentError: agent agent returned a tuple that contains float; return"),
        (math.nan, "AgentError: agent agent returned the reward nan; a reward must be a finite number"),
        (10**400, "AgentError: agent agent returned the reward inf; a reward must be a finite number"),
    ],
)
async def test_unsupported_return_value_fails_the_attempt_and_names_the_type(harness: Harness, value: Any, reason: str):
    rollout = await harness.run_one(agent_returning(value))

    assert rollout.status == "failed"
    assert rollout.attempt.metadata["reason"].startswith(reason)
    assert agl.find_final_reward(await harness.spans(rollout)) is None


async def test_returned_spans_that_the_store_refuses_fail_the_attempt(harness: Harness):
    bad = agl.SpanCoreFields(name="bad", attributes={"x": math.nan})

    rollout = await harness.run_one(agent_returning([bad]))

    assert rollout.status == "failed"
    assert "nan" in rollout.attempt.metadata["reason"]


# Errors


async def test_exception_is_stored_as_reason_traceback_and_span(harness: Harness):
    def deep():
        raise ValueError("no such city")

    async def agent(task):
        deep()

    rollout = await harness.run_one(agent)

    assert rollout.status == "failed"
    assert rollout.attempt.status == "failed"
    assert rollout.attempt.metadata["reason"] == "ValueError: no such city"
    lines = rollout.attempt.metadata["traceback"].splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "ValueError: no such city")
    assert "in agent" in lines[1]  # without the package's own frames
    assert [span.name for span in await harness.spans(rollout)] == [semconv.EXCEPTION]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(), "RuntimeError"),
        (KeyError("city"), "KeyError: key 'city'"),
        (SystemExit(3), "SystemExit: the agent tried to exit the process (3)"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(1), "StopIteration: 1"),
        (GeneratorExit(), "GeneratorExit"),
        (ValueError("half a pair: \ud800, nul: \0"), "ValueError: half a pair: ?, nul: \ufffd"),
        (Unprintable(), "Unprintable: (its message cannot be shown)"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_any_error_fails_the_attempt_and_not_the_runner(
    harness: Harness, kind: str, error: BaseException, reason: str
):
    def sync_agent(task):
        raise error

    async def async_agent(task):
        raise error

    if kind == "async" and isinstance(error, StopIteration):
        reason = "RuntimeError: coroutine raised StopIteration"

    failed, following = await harness.run(sync_agent if kind == "sync" else async_agent, "a", "b")

    assert failed.attempt.metadata["reason"] == reason
    assert (failed.status, following.status) == ("failed", "failed")


async def test_sys_exit_in_an_agent_ends_only_the_attempt(harness: Harness):
    def agent(task):
        if task == "bad":
            sys.exit("enough")
        return 1.0

    rollouts = await harness.run(agent, "bad", "good")

    assert [rollout.status for rollout in rollouts] == ["failed", "succeeded"]


async def test_long_traceback_is_shortened(harness: Harness):
    def agent(task):
        raise ValueError("x" * 100_000)

    rollout = await harness.run_one(agent)

    assert len(rollout.attempt.metadata["reason"]) == 2_000
    assert len(rollout.attempt.metadata["traceback"]) < MAX_TRACEBACK + 100
    assert "characters left out" in rollout.attempt.metadata["traceback"]


async def test_missing_resource_fails_the_attempt_and_is_named(harness: Harness):
    def agent(task, prompt_template):
        pass

    await harness.store.add_resources({"model": agl.LLM(endpoint="http://m/v1", model="m")})

    rollout = await harness.run_one(agent)

    assert rollout.attempt.metadata["reason"] == (
        "ResourceMissing: agent agent needs 'prompt_template' (PromptTemplate), "
        f"but the resources of rollout {rollout.rollout_id} are 'model' (LLM)"
    )


async def test_sync_agent_may_return_a_coroutine(harness: Harness):
    async def work():
        return 0.25

    rollout = await harness.run_one(lambda task: work())

    assert agl.find_final_reward(await harness.spans(rollout)) == 0.25


# Log lines


async def test_log_lines_are_those_of_the_tutorial(harness: Harness, caplog: pytest.LogCaptureFixture):
    def agent(task):
        if task == "bad":
            raise ValueError("no such city")
        return 0.95

    with caplog.at_level(logging.INFO, logger="agentlightning"):
        good, bad = await harness.run(agent, "good", "bad")

    lines = [record.getMessage() for record in caplog.records]
    assert "[Worker 0] Setting up tracer..." in lines
    assert "[Worker 0] Instrumentation applied." in lines
    assert "[Worker 0] Started async rollouts (max: 2)." in lines
    [completed] = [line for line in lines if "Completed" in line]
    prefix = re.escape(f"[Worker 0 | Rollout {good.rollout_id}] ")
    assert re.fullmatch(prefix + r"Completed in \d+\.\d\ds\. 1 span, final reward 0\.95\.", completed)
    [failed] = [line for line in lines if "Failed" in line]
    first, _, traceback = failed.partition("\n")
    prefix = re.escape(f"[Worker 0 | Rollout {bad.rollout_id}] ")
    assert re.fullmatch(
        prefix + r"Failed in \d+\.\d\ds\. ValueError: no such city \(1 span, final reward None\.\)", first
    )
    assert traceback == bad.attempt.metadata["traceback"]
