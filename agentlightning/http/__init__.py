"""HTTP components shared by the store and the LLM proxy: server, authentication and limits."""
