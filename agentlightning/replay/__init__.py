"""Work with recorded rollouts without a model: run agents again with recorded responses, and recompute rewards."""

from .cassette import Cassette, RecordedCall
from .rerun import RegradeResult, ReplayResult, regrade, replay

__all__ = ["Cassette", "RecordedCall", "RegradeResult", "ReplayResult", "regrade", "replay"]
