"""PostgreSQL behind the `Database` interface."""
