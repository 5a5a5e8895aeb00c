"""`import agentlightning as agl`: light, and with a name for everything people type after `agl.`"""

import subprocess
import sys
from importlib import import_module

import pytest

import agentlightning as agl

EXPORTS = """
APO Adapter AgentOpsTracer Algorithm Attempt AttemptStatus AttemptedRollout Baseline ClientServerExecutionStrategy
Config Dataset DummyTracer EnqueueRolloutRequest Event ExecutionStrategy FastAlgorithm Hook InMemoryLightningStore LLM
LLMProxy LightningStore LightningStoreClient LightningStoreServer LightningTracer Link LitAgent LitAgentRunner
NamedResources OtelResource OtelTracer PaginatedResult PostgresLightningStore PromptTemplate ProxyLLM Resource
ResourcesUpdate Rollout RolloutConfig RolloutMode RolloutStatus Runner SharedMemoryExecutionStrategy Span SpanContext
SpanCoreFields SqliteLightningStore TraceAdapter TraceStatus TraceToMessages Tracer TracerTraceToTriplet Trainer
Triplet Weights Worker WorkerStatus algo clear_active_tracer command_agent emit_annotation emit_exception emit_message
emit_object emit_reward find_final_reward find_reward_spans get_active_tracer get_message_value get_object_value
get_reward_value get_rewards_from_span is_reward_span llm_rollout open_store operation prompt_rollout rollout
set_active_tracer setup_logging
"""
ROOMS = (
    "adapter algorithm emitter execution instrumentation litagent llm_proxy runner semconv store tracer trainer types"
)

HEAVY = ["openai", "agentops", "torch", "starlette", "uvicorn", "aiohttp", "apsw", "opentelemetry.sdk", "pydantic"]


def test_the_door_has_every_name_that_people_know() -> None:
    assert sorted(agl.__all__) == sorted(EXPORTS.split())


@pytest.mark.parametrize("name", sorted(agl.__all__))
def test_every_name_at_the_door_is_in_its_room(name: str) -> None:
    assert getattr(agl, name) is not None
    assert name in dir(agl)


@pytest.mark.parametrize("room", ROOMS.split())
def test_every_room_can_be_entered_by_its_own_name(room: str) -> None:
    assert import_module(f"agentlightning.{room}").__doc__


def test_a_name_that_is_not_there_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trianer'"):
        _ = agl.Trianer  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_it_loads_nothing_heavy() -> None:
    program = f"import sys, agentlightning; print([name for name in {HEAVY} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
