"""Tests of the store: its HTTP API, idempotency, durability, and its reference model."""
