"""The dashboard's static files, which `store/http/assets.py` serves, and the export of a run as one HTML page.

The pages use the store's HTTP API like any other client.
"""
