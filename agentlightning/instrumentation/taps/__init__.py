"""Wire taps: record LLM calls in the HTTP clients that SDKs use."""
