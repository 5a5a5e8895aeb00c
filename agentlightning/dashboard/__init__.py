"""The dashboard: static files that use the store's HTTP API like any other client. `store/http/assets.py` serves them."""
