"""The dashboard: static files, served by `store/http/assets.py`. Its pages use the store's HTTP API like any client."""
