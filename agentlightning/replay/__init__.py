"""Going back over what was recorded: agents run again against the tape, rewards computed anew, with no model."""

from .cassette import Exchange, Tape
from .regrading import Regraded, regrade
from .rerun import Replayed, replay

__all__ = ["Exchange", "Regraded", "Replayed", "Tape", "regrade", "replay"]
