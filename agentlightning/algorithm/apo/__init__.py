"""Automatic prompt optimisation: a model says what is wrong with a prompt and writes better ones; the best stay."""

from .algorithm import APO
from .comparison import Difference, Estimate
from .search import Candidate, Verdict

__all__ = ["APO", "Candidate", "Difference", "Estimate", "Verdict"]
