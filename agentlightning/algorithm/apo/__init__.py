"""Automatic prompt optimisation: one model criticises a prompt, another rewrites it, and the best prompts are kept."""

from ..comparison import Difference as Difference, Estimate as Estimate
from .algorithm import APO as APO
from .search import Candidate as Candidate, Verdict as Verdict
