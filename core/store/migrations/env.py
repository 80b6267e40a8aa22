"""What Alembic runs. It is handed an open connection by `core.store.migrate` and opens none itself."""

from __future__ import annotations

from alembic import context

from core.store.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run migrations with `wahafleet migrate`: it takes the lock that they need")

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
