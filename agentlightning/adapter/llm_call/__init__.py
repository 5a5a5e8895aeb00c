"""A uniform view of LLM calls, independent of the libraries that recorded them.

Adapters, the dashboard and replay read calls through `llm_calls(spans)`, never directly from a library's attributes.
"""

from .merge import llm_calls
from .view import LLMCall

__all__ = ["LLMCall", "llm_calls"]
