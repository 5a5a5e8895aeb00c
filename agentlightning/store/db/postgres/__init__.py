"""PostgreSQL implementation of the `Database` interface."""
