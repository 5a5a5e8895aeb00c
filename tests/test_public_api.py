"""Public names of `import agentlightning as agl`, and the cost of that import."""

import subprocess
import sys
from importlib import import_module

import pytest

import agentlightning as agl

NAMES = """
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

MODULES = """
adapter algorithm emitter execution instrumentation litagent llm_proxy runner semconv store tracer trainer types
"""

HEAVY = ["openai", "agentops", "torch", "starlette", "uvicorn", "aiohttp", "apsw", "opentelemetry.sdk", "pydantic"]


def test_exported_names_are_the_published_ones() -> None:
    assert sorted(vars(agl)["__all__"]) == sorted(NAMES.split())


def test_exported_names_can_be_used_and_listed() -> None:
    assert [name for name in vars(agl)["__all__"] if getattr(agl, name) is None or name not in dir(agl)] == []


def test_public_modules_can_be_imported() -> None:
    assert [name for name in MODULES.split() if not import_module(f"agentlightning.{name}").__doc__] == []


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trianer'"):
        _ = agl.Trianer  # pyright: ignore[reportAttributeAccessIssue]


def test_import_loads_no_heavy_library() -> None:
    program = f"import sys, agentlightning; print([name for name in {HEAVY} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
