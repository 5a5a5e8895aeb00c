"""Databases: the interface that the store needs, and SQLite and PostgreSQL behind it."""
