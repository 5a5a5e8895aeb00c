"""HTTP parts shared by the store and the LLM proxy: server, disconnects, authentication, limits."""
