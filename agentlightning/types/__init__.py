"""Data types: rollouts, attempts, workers, spans, resources, hooks, pages."""

from .hooks import Hook as Hook
from .pages import PaginatedResult as PaginatedResult
from .resources import (
    LLM as LLM,
    Config as Config,
    Dataset as Dataset,
    NamedResources as NamedResources,
    PromptTemplate as PromptTemplate,
    ProxyLLM as ProxyLLM,
    Resource as Resource,
    ResourcesUpdate as ResourcesUpdate,
    ResourceUnion as ResourceUnion,
    Weights as Weights,
)
from .rollouts import (
    Attempt as Attempt,
    AttemptedRollout as AttemptedRollout,
    AttemptRef as AttemptRef,
    AttemptStatus as AttemptStatus,
    EnqueueRolloutRequest as EnqueueRolloutRequest,
    Metadata as Metadata,
    Rollout as Rollout,
    RolloutConfig as RolloutConfig,
    RolloutMode as RolloutMode,
    RolloutStatus as RolloutStatus,
    Worker as Worker,
    WorkerStatus as WorkerStatus,
)
from .spans import (
    Event as Event,
    Link as Link,
    OtelResource as OtelResource,
    Span as Span,
    SpanContext as SpanContext,
    SpanCoreFields as SpanCoreFields,
    TraceStatus as TraceStatus,
    Triplet as Triplet,
    trace_of as trace_of,
)
