"""Taps of HTTP libraries, which record the LLM calls of the SDKs that use them."""
