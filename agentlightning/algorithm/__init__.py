"""Algorithms: the base class, the `@algo` decorator, the built-in algorithms, and the journal for resuming runs."""

from .apo import APO as APO
from .base import Algorithm as Algorithm, FastAlgorithm as FastAlgorithm
from .baseline import Baseline as Baseline
from .function import FunctionAlgorithm as FunctionAlgorithm, algo as algo, as_algorithm as as_algorithm
from .journal import Journal as Journal
