"""An HTTP proxy between agents and model servers. It records each call as a span of the attempt that made the call.

`proxy.py` contains the public class, `app.py` dispatches requests, `auth.py` authenticates them, `upstreams.py` parses
the list of model servers, `routing.py` selects a server for each call, `forwarding.py` forwards the call and requests
token ids, `responses.py` reads the servers' responses, which are not trusted, `errors.py` formats error responses, and
`recording.py` stores the spans.
"""

from ..lazy import lazy_names

__all__, __getattr__ = lazy_names(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
