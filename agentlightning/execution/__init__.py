"""Where algorithm and runners run: in threads of one process, or in processes on one machine or several."""

from .base import AlgorithmSide, ExecutionStrategy, Role, RunnerSide
from .client_server import ClientServerExecutionStrategy
from .shared_memory import SharedMemoryExecutionStrategy

__all__ = [
    "AlgorithmSide",
    "ClientServerExecutionStrategy",
    "ExecutionStrategy",
    "Role",
    "RunnerSide",
    "SharedMemoryExecutionStrategy",
]
