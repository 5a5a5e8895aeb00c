"""Databases: the interface that the store uses, with implementations for SQLite and PostgreSQL."""
