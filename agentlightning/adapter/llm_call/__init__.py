"""One view of every call to a model, independent of the library, or libraries, that recorded it.

Adapters, dashboard and replay read calls through `llm_calls(spans)`, never through a library's attributes.
"""

from .merge import llm_calls
from .view import LLMCall

__all__ = ["LLMCall", "llm_calls"]
