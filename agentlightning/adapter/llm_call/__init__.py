"""A uniform view of LLM calls, independent of the libraries that recorded them.

The adapters `TraceToMessages` and `TracerTraceToTriplet` read calls only through `llm_calls(spans)`.
"""

from .merge import llm_calls
from .view import LLMCall

__all__ = ["LLMCall", "llm_calls"]
