"""Tests of the store's contract, which run against every kind of store."""
