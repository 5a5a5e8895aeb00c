"""The public names of Agent Lightning, for type checkers and for the lazy `__init__.py`."""

from .adapter import (
    Adapter as Adapter,
    TraceAdapter as TraceAdapter,
    TracerTraceToTriplet as TracerTraceToTriplet,
    TraceToMessages as TraceToMessages,
    find_final_reward as find_final_reward,
    find_reward_spans as find_reward_spans,
    get_message_value as get_message_value,
    get_object_value as get_object_value,
    get_reward_value as get_reward_value,
    get_rewards_from_span as get_rewards_from_span,
    is_reward_span as is_reward_span,
)
from .algorithm import (
    APO as APO,
    Algorithm as Algorithm,
    Baseline as Baseline,
    FastAlgorithm as FastAlgorithm,
    algo as algo,
)
from .emitter import (
    emit_annotation as emit_annotation,
    emit_exception as emit_exception,
    emit_message as emit_message,
    emit_object as emit_object,
    emit_reward as emit_reward,
    operation as operation,
)
from .execution import (
    ClientServerExecutionStrategy as ClientServerExecutionStrategy,
    ExecutionStrategy as ExecutionStrategy,
    SharedMemoryExecutionStrategy as SharedMemoryExecutionStrategy,
)
from .litagent import (
    LitAgent as LitAgent,
    command_agent as command_agent,
    llm_rollout as llm_rollout,
    prompt_rollout as prompt_rollout,
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
    Runner as Runner,
)
from .store import (
    InMemoryLightningStore as InMemoryLightningStore,
    LightningStore as LightningStore,
    LightningStoreClient as LightningStoreClient,
    LightningStoreServer as LightningStoreServer,
    PostgresLightningStore as PostgresLightningStore,
    SqliteLightningStore as SqliteLightningStore,
    open_store as open_store,
)
from .tracer import (
    AgentOpsTracer as AgentOpsTracer,
    DummyTracer as DummyTracer,
    LightningTracer as LightningTracer,
    OtelTracer as OtelTracer,
    Tracer as Tracer,
    clear_active_tracer as clear_active_tracer,
    get_active_tracer as get_active_tracer,
    set_active_tracer as set_active_tracer,
)
from .trainer import (
    Trainer as Trainer,
)
from .types import (
    LLM as LLM,
    Attempt as Attempt,
    AttemptedRollout as AttemptedRollout,
    AttemptStatus as AttemptStatus,
    Config as Config,
    Dataset as Dataset,
    EnqueueRolloutRequest as EnqueueRolloutRequest,
    Event as Event,
    Hook as Hook,
    Link as Link,
    NamedResources as NamedResources,
    OtelResource as OtelResource,
    PaginatedResult as PaginatedResult,
    PromptTemplate as PromptTemplate,
    ProxyLLM as ProxyLLM,
    Resource as Resource,
    ResourcesUpdate as ResourcesUpdate,
    Rollout as Rollout,
    RolloutConfig as RolloutConfig,
    RolloutMode as RolloutMode,
    RolloutStatus as RolloutStatus,
    Span as Span,
    SpanContext as SpanContext,
    SpanCoreFields as SpanCoreFields,
    TraceStatus as TraceStatus,
    Triplet as Triplet,
    Weights as Weights,
    Worker as Worker,
    WorkerStatus as WorkerStatus,
)
