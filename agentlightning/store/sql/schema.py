"""Database schema: the migration steps that lead from an empty database to the tables of this release."""

from __future__ import annotations

from ...errors import StoreUnavailable
from ..db.database import Dialect, Transaction

# Each entry contains the SQL statements that migrate the schema to the next version. Never edit a released entry,
# because it is not executed again on databases that have already been migrated.
STEPS: list[list[str]] = [
    [
        """
        CREATE TABLE rollouts (
            ordinal {serial},
            rollout_id {text} NOT NULL UNIQUE,
            input {bytes} NOT NULL,
            start_time DOUBLE PRECISION NOT NULL,
            end_time DOUBLE PRECISION,
            mode {text},
            resources_id {text},
            resources_version BIGINT,
            status {text} NOT NULL,
            config {bytes} NOT NULL,
            metadata {bytes} NOT NULL,
            attempt_id {text},
            attempts BIGINT NOT NULL,
            queue_position BIGINT,
            reward DOUBLE PRECISION
        )
        """,
        # The queue consists of the rollouts that have a queue position.
        "CREATE INDEX rollouts_queue ON rollouts (queue_position, ordinal) WHERE queue_position IS NOT NULL",
        "CREATE INDEX rollouts_status ON rollouts (status, start_time)",
        "CREATE INDEX rollouts_resources ON rollouts (resources_id, resources_version)",
        "CREATE INDEX rollouts_end ON rollouts (end_time) WHERE end_time IS NOT NULL",
        """
        CREATE TABLE attempts (
            ordinal {serial},
            rollout_id {text} NOT NULL,
            attempt_id {text} NOT NULL,
            sequence_id BIGINT NOT NULL,
            start_time DOUBLE PRECISION NOT NULL,
            end_time DOUBLE PRECISION,
            status {text} NOT NULL,
            worker_id {text},
            last_heartbeat_time DOUBLE PRECISION,
            metadata {bytes},
            lease_start DOUBLE PRECISION NOT NULL,
            lease_seen DOUBLE PRECISION NOT NULL,
            deadline DOUBLE PRECISION,
            last_sequence_id BIGINT NOT NULL,
            UNIQUE (rollout_id, attempt_id)
        )
        """,
        # An attempt has a deadline if and only if it is live (`preparing` or `running`).
        "CREATE INDEX attempts_deadline ON attempts (deadline) WHERE deadline IS NOT NULL",
        "CREATE INDEX attempts_worker ON attempts (worker_id) WHERE deadline IS NOT NULL",
        """
        CREATE TABLE spans (
            ordinal {serial},
            rollout_id {text} NOT NULL,
            attempt_id {text} NOT NULL,
            sequence_id BIGINT NOT NULL,
            trace_id {text} NOT NULL,
            span_id {text} NOT NULL,
            parent_id {text},
            name {text} NOT NULL,
            start_time DOUBLE PRECISION,
            end_time DOUBLE PRECISION,
            payload {bytes} NOT NULL,
            UNIQUE (rollout_id, attempt_id, span_id)
        )
        """,
        """
        CREATE TABLE resources (
            ordinal {serial},
            resources_id {text} NOT NULL,
            version BIGINT NOT NULL,
            create_time DOUBLE PRECISION NOT NULL,
            update_time DOUBLE PRECISION NOT NULL,
            resources {bytes} NOT NULL,
            UNIQUE (resources_id, version)
        )
        """,
        """
        CREATE TABLE workers (
            ordinal {serial},
            worker_id {text} NOT NULL UNIQUE,
            status {text} NOT NULL,
            heartbeat_stats {bytes},
            last_heartbeat_time DOUBLE PRECISION,
            last_dequeue_time DOUBLE PRECISION,
            last_busy_time DOUBLE PRECISION,
            last_idle_time DOUBLE PRECISION,
            current_rollout_id {text},
            current_attempt_id {text},
            deadline DOUBLE PRECISION
        )
        """,
        # Responses to requests, by idempotency key. Each is kept as long as the client may repeat the request.
        "CREATE TABLE answers (key {text} PRIMARY KEY, answer {bytes} NOT NULL, time DOUBLE PRECISION NOT NULL)",
        "CREATE INDEX answers_time ON answers (time)",
    ],
    [
        # The ordinal of the last span that was exported to each OTLP target.
        "CREATE TABLE exports (target {text} PRIMARY KEY, ordinal BIGINT NOT NULL)",
    ],
    [
        """
        CREATE TABLE leases (
            name {text} PRIMARY KEY,
            holder {text} NOT NULL,
            about {bytes},
            since DOUBLE PRECISION NOT NULL,
            seen DOUBLE PRECISION NOT NULL,
            expires DOUBLE PRECISION NOT NULL
        )
        """,
    ],
    [
        # In earlier schema versions, `answers.time` was a wall time. It is now a lease time (see `Clock` in `base.py`).
        # These times cannot be compared, so delete the old responses.
        "DELETE FROM answers",
    ],
    [
        "ALTER TABLE attempts ADD COLUMN late_spans BIGINT NOT NULL DEFAULT 0",
    ],
]


async def migrate(transaction: Transaction, dialect: Dialect) -> None:
    """Create the tables, or migrate them to the schema of this release, in the given transaction.

    Raises `StoreUnavailable` if the database was written by a newer release.
    """
    version = await schema_version(transaction)
    if version > len(STEPS):
        raise StoreUnavailable(
            f"this database was written by a newer release (schema {version}, this release supports {len(STEPS)}): "
            "upgrade agentlightning, or choose another --db"
        )
    for step in STEPS[version:]:
        for statement in step:
            await transaction.execute(statement.format(bytes=dialect.bytes, text=dialect.text, serial=dialect.serial))
    await transaction.execute("DELETE FROM schema_version")
    await transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", len(STEPS))


async def schema_version(transaction: Transaction) -> int:
    """Return the schema version of the database, or 0 if the database is empty.

    Create the table `schema_version` if it does not exist.
    """
    await transaction.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
    rows = await transaction.fetch("SELECT version FROM schema_version")
    return rows[0][0] if rows else 0


async def prepare_postgres(transaction: Transaction, dialect: Dialect) -> float:
    """Create or migrate the tables in PostgreSQL, and return the lease time that all servers of this database share."""
    await migrate(transaction, dialect)
    await transaction.execute("CREATE TABLE IF NOT EXISTS lease_clock (lease DOUBLE PRECISION NOT NULL)")
    await transaction.execute("INSERT INTO lease_clock (lease) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM lease_clock)")
    await _set_payload_compression(transaction)
    return (await transaction.fetch("SELECT lease FROM lease_clock"))[0][0]


async def _set_payload_compression(transaction: Transaction) -> None:
    """Make PostgreSQL compress span payloads with lz4, or store them uncompressed if lz4 is unavailable.

    PostgreSQL's default compression method, pglz, costs more time than it saves.
    """
    stored = "SELECT 1 FROM pg_attribute WHERE attrelid = 'spans'::regclass AND attname = 'payload'"
    if await transaction.fetch(f"{stored} AND (attstorage = 'e' OR attcompression = 'l')"):
        return
    lz4 = "SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)"
    choice = "SET COMPRESSION lz4" if await transaction.fetch(lz4) else "SET STORAGE EXTERNAL"
    await transaction.execute(f"ALTER TABLE spans ALTER COLUMN payload {choice}")
