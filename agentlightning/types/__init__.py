"""The nouns: rollouts, attempts, spans, resources, and what is said of them."""

from .data import Triplet
from .hooks import Hook
from .pages import PaginatedResult
from .resources import (
    LLM,
    Config,
    Dataset,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Resource,
    ResourcesUpdate,
    ResourceUnion,
    Weights,
)
from .rollouts import (
    Attempt,
    AttemptedRollout,
    AttemptRef,
    AttemptStatus,
    EnqueueRolloutRequest,
    Metadata,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Worker,
    WorkerStatus,
)
from .spans import Event, Link, OtelResource, Span, SpanContext, SpanCoreFields, TraceStatus, trace_of

__all__ = [
    "LLM",
    "Attempt",
    "AttemptRef",
    "AttemptStatus",
    "AttemptedRollout",
    "Config",
    "Dataset",
    "EnqueueRolloutRequest",
    "Event",
    "Hook",
    "Link",
    "Metadata",
    "NamedResources",
    "OtelResource",
    "PaginatedResult",
    "PromptTemplate",
    "ProxyLLM",
    "Resource",
    "ResourceUnion",
    "ResourcesUpdate",
    "Rollout",
    "RolloutConfig",
    "RolloutMode",
    "RolloutStatus",
    "Span",
    "SpanContext",
    "SpanCoreFields",
    "TraceStatus",
    "Triplet",
    "Weights",
    "Worker",
    "WorkerStatus",
    "trace_of",
]
