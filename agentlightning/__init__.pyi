"""The front door, as type checkers see it; `__init__.py` finds each name's room in these lines."""

from .adapter import (
    Adapter as Adapter,
)
from .adapter import (
    TraceAdapter as TraceAdapter,
)
from .adapter import (
    TracerTraceToTriplet as TracerTraceToTriplet,
)
from .adapter import (
    TraceToMessages as TraceToMessages,
)
from .adapter import (
    find_final_reward as find_final_reward,
)
from .adapter import (
    find_reward_spans as find_reward_spans,
)
from .adapter import (
    get_message_value as get_message_value,
)
from .adapter import (
    get_object_value as get_object_value,
)
from .adapter import (
    get_reward_value as get_reward_value,
)
from .adapter import (
    get_rewards_from_span as get_rewards_from_span,
)
from .adapter import (
    is_reward_span as is_reward_span,
)
from .algorithm import (
    APO as APO,
)
from .algorithm import (
    Algorithm as Algorithm,
)
from .algorithm import (
    Baseline as Baseline,
)
from .algorithm import (
    FastAlgorithm as FastAlgorithm,
)
from .algorithm import (
    algo as algo,
)
from .emitter import (
    emit_annotation as emit_annotation,
)
from .emitter import (
    emit_exception as emit_exception,
)
from .emitter import (
    emit_message as emit_message,
)
from .emitter import (
    emit_object as emit_object,
)
from .emitter import (
    emit_reward as emit_reward,
)
from .emitter import (
    operation as operation,
)
from .execution import (
    ClientServerExecutionStrategy as ClientServerExecutionStrategy,
)
from .execution import (
    ExecutionStrategy as ExecutionStrategy,
)
from .execution import (
    SharedMemoryExecutionStrategy as SharedMemoryExecutionStrategy,
)
from .litagent import (
    LitAgent as LitAgent,
)
from .litagent import (
    command_agent as command_agent,
)
from .litagent import (
    llm_rollout as llm_rollout,
)
from .litagent import (
    prompt_rollout as prompt_rollout,
)
from .litagent import (
    rollout as rollout,
)
from .llm_proxy import (
    LLMProxy as LLMProxy,
)
from .logs import (
    setup_logging as setup_logging,
)
from .runner import (
    LitAgentRunner as LitAgentRunner,
)
from .runner import (
    Runner as Runner,
)
from .store import (
    InMemoryLightningStore as InMemoryLightningStore,
)
from .store import (
    LightningStore as LightningStore,
)
from .store import (
    LightningStoreClient as LightningStoreClient,
)
from .store import (
    LightningStoreServer as LightningStoreServer,
)
from .store import (
    PostgresLightningStore as PostgresLightningStore,
    SqliteLightningStore as SqliteLightningStore,
)
from .store import (
    open_store as open_store,
)
from .tracer import (
    AgentOpsTracer as AgentOpsTracer,
)
from .tracer import (
    DummyTracer as DummyTracer,
)
from .tracer import (
    LightningTracer as LightningTracer,
)
from .tracer import (
    OtelTracer as OtelTracer,
)
from .tracer import (
    Tracer as Tracer,
)
from .tracer import (
    clear_active_tracer as clear_active_tracer,
)
from .tracer import (
    get_active_tracer as get_active_tracer,
)
from .tracer import (
    set_active_tracer as set_active_tracer,
)
from .trainer import (
    Trainer as Trainer,
)
from .types import (
    LLM as LLM,
)
from .types import (
    Attempt as Attempt,
)
from .types import (
    AttemptedRollout as AttemptedRollout,
)
from .types import (
    AttemptStatus as AttemptStatus,
)
from .types import (
    Config as Config,
)
from .types import (
    Dataset as Dataset,
)
from .types import (
    EnqueueRolloutRequest as EnqueueRolloutRequest,
)
from .types import (
    Event as Event,
)
from .types import (
    Hook as Hook,
)
from .types import (
    Link as Link,
)
from .types import (
    NamedResources as NamedResources,
)
from .types import (
    OtelResource as OtelResource,
)
from .types import (
    PaginatedResult as PaginatedResult,
)
from .types import (
    PromptTemplate as PromptTemplate,
)
from .types import (
    ProxyLLM as ProxyLLM,
)
from .types import (
    Resource as Resource,
)
from .types import (
    ResourcesUpdate as ResourcesUpdate,
)
from .types import (
    Rollout as Rollout,
)
from .types import (
    RolloutConfig as RolloutConfig,
)
from .types import (
    RolloutMode as RolloutMode,
)
from .types import (
    RolloutStatus as RolloutStatus,
)
from .types import (
    Span as Span,
)
from .types import (
    SpanContext as SpanContext,
)
from .types import (
    SpanCoreFields as SpanCoreFields,
)
from .types import (
    TraceStatus as TraceStatus,
)
from .types import (
    Triplet as Triplet,
)
from .types import (
    Weights as Weights,
)
from .types import (
    Worker as Worker,
)
from .types import (
    WorkerStatus as WorkerStatus,
)
