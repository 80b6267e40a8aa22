"""Tables of who may do what, and who did. `tables.py` names all."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Index, String, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB

from core.store.schema import Id, Time, metadata

# Ids without foreign keys: a line outlives whom it speaks of.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("actor_kind", String(20), nullable=False),
    Column("actor_id", Id),
    Column("actor_key", Id),
    Column("actor_name", Text, nullable=False, server_default=text("''")),  # who sat at the terminal
    Column("address", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("action", String(60), nullable=False),
    Column("user_id", Id),  # whose things were changed
    Column("target", Text),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
)
Index("ix_audit_log_user", audit_log.c.user_id, audit_log.c.id)
Index("ix_audit_log_at", audit_log.c.at)
