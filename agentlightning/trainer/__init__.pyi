"""The trainer, which runs an algorithm and an agent's runners with a single call."""

from .callbacks import Callback as Callback, TensorBoard as TensorBoard
from .result import CandidateResult as CandidateResult, RunResult as RunResult
from .trainer import Trainer as Trainer
