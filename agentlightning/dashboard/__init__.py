"""The dashboard: static files that `store/http/assets.py` serves, and the export of a run as one HTML page.

The served pages use the store's HTTP API like any other client. An exported page contains its own data.
"""
