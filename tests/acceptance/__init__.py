"""Acceptance tests, which run the product as users do: real processes, a real store, and a model over HTTP."""
