"""The dashboard: static files, a client of the same operations over HTTP as any other. `store/http/assets.py` serves them."""
