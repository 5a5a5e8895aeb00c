"""HTTP components shared by the store and the LLM proxy: server, disconnect handling, authentication, limits."""
