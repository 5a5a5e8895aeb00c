"""One view of every call to a model, whichever library recorded it, and however many did.

`llm_calls(spans)` is all that others need: adapters, dashboard and replay read calls, never a library's attributes.
"""

from .merging import llm_calls
from .view import LLMCall

__all__ = ["LLMCall", "llm_calls"]
