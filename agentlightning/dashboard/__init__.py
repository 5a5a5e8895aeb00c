"""The dashboard: static files, a client of the same operations over HTTP as any other. `store/pages.py` serves them."""
