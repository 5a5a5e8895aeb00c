"""HTTP proxy between agents and model servers that records every call as a span of its attempt.

`proxy.py` contains the public class, `app.py` dispatches requests, `auth.py` authenticates them, `routing.py` selects a
model server, `forwarding.py` forwards a call and requests token ids, and `recording.py` stores the spans.
"""

from .proxy import LLMProxy as LLMProxy
from .upstreams import Upstream as Upstream
