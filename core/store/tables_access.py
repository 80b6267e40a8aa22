"""Tables of who may do what, and who did. `tables.py` names all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    func,
    text,
)
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

# One row a login; `core/domain/refresh.py` says why two hashes are enough.
refresh_families = Table(
    "refresh_families",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("newest_hash", LargeBinary, nullable=False),  # SHA-256 of the token's jti
    Column("before_hash", LargeBinary),
    Column("rotated_at", Time),
    Column("expires_at", Time, nullable=False),  # of the newest token
    Column("ended_at", Time),
    Column("created_at", Time, nullable=False, server_default=func.clock_timestamp()),
)
Index("ix_refresh_families_user_id", refresh_families.c.user_id)
Index("ix_refresh_families_expires_at", refresh_families.c.expires_at)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id")),  # none: of a service or an operator
    Column("role", String(20), nullable=False, server_default=text("'user'")),
    Column("name", String(100), nullable=False),
    Column("prefix", String(14), nullable=False, unique=True),
    Column("key_hash", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("created_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("last_used_at", Time),  # to the minute
    Column("revoked_at", Time),
    CheckConstraint("role IN ('user', 'service', 'operator')", name="role"),
    CheckConstraint("(role = 'user') = (user_id IS NOT NULL)", name="owner"),
)
Index("ix_api_keys_user_id", api_keys.c.user_id, api_keys.c.created_at)
