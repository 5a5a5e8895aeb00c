"""The trainer: one call runs the loop."""

from .callbacks import Callback as Callback, TensorBoard as TensorBoard
from .result import RunResult as RunResult, Tried as Tried
from .trainer import Trainer as Trainer
