"""The dashboard: static files, served by `store/http/assets.py`, that use the store's HTTP API like any client."""
