"""Execution strategies: run algorithm and runners in threads of one process, or in processes on several machines."""

from .base import (
    AlgorithmTask as AlgorithmTask,
    ExecutionStrategy as ExecutionStrategy,
    Role as Role,
    RunnerTask as RunnerTask,
)
from .client_server import ClientServerExecutionStrategy as ClientServerExecutionStrategy
from .shared_memory import SharedMemoryExecutionStrategy as SharedMemoryExecutionStrategy
