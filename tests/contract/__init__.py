"""The store's contract, run on every way to reach a store."""
