"""Execution strategies: run algorithm and runners in threads of one process, or in processes on several machines."""

from .base import AlgorithmTask, ExecutionStrategy, Role, RunnerTask
from .client_server import ClientServerExecutionStrategy
from .shared_memory import SharedMemoryExecutionStrategy

__all__ = [
    "AlgorithmTask",
    "ClientServerExecutionStrategy",
    "ExecutionStrategy",
    "Role",
    "RunnerTask",
    "SharedMemoryExecutionStrategy",
]
