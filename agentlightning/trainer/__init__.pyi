"""The trainer: run an algorithm and the runners of an agent with one call."""

from .callbacks import Callback as Callback, TensorBoard as TensorBoard
from .result import CandidateResult as CandidateResult, RunResult as RunResult
from .trainer import Trainer as Trainer
