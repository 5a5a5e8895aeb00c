"""Agent Lightning: make any AI agent better without rewriting it.

The front door is lazy: a name is imported from its room when it is first used, so `import agentlightning` loads no
model SDK, no web server and no tracing library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ROOMS = {
    "types": (
        "Attempt AttemptedRollout AttemptStatus Config Dataset EnqueueRolloutRequest Event Hook LLM Link "
        "NamedResources OtelResource PaginatedResult PromptTemplate ProxyLLM Resource ResourcesUpdate Rollout "
        "RolloutConfig RolloutMode RolloutStatus Span SpanContext SpanCoreFields TraceStatus Triplet Weights Worker "
        "WorkerStatus"
    ),
    "store": (
        "InMemoryLightningStore LightningStore LightningStoreClient LightningStoreServer "
        "SqliteLightningStore open_store"
    ),
    "tracer": (
        "AgentOpsTracer DummyTracer LightningTracer OtelTracer Tracer clear_active_tracer get_active_tracer "
        "set_active_tracer"
    ),
    "emitter": "emit_annotation emit_exception emit_message emit_object emit_reward operation",
    "adapter": (
        "Adapter TraceAdapter TraceToMessages TracerTraceToTriplet find_final_reward find_reward_spans "
        "get_message_value get_object_value get_reward_value get_rewards_from_span is_reward_span"
    ),
    "litagent": "LitAgent llm_rollout prompt_rollout rollout",
    "llm_proxy": "LLMProxy",
    "runner": "LitAgentRunner Runner",
    "algorithm": "Algorithm Baseline FastAlgorithm algo",
    "execution": "ClientServerExecutionStrategy ExecutionStrategy SharedMemoryExecutionStrategy",
    "trainer": "Trainer",
    "logs": "setup_logging",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if room := _HOME.get(name):
        return getattr(import_module(f".{room}", __name__), name)
    raise AttributeError(f"module 'agentlightning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
