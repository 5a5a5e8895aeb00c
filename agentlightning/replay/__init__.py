"""Replay of recorded rollouts without a model: agents run again on recorded responses, and rewards are recomputed."""

from .cassette import Cassette, RecordedCall
from .rerun import RegradeResult, ReplayResult, regrade, replay

__all__ = ["Cassette", "RecordedCall", "RegradeResult", "ReplayResult", "regrade", "replay"]
