"""What adapters make of a trace."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Triplet(BaseModel):
    """One step to learn from: what was asked, what was answered, what it was worth."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
