"""Tables of the HTTP side itself: answers kept for an `Idempotency-Key`. `tables.py` names all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.store.schema import Time, metadata

# Claimed before the effect; the effect's own transaction marks it; the answer is written last.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("owner", String(80), nullable=False),  # whose key it is: a user, an API key, or the command line
    Column("key", String(200), nullable=False),
    Column("fingerprint", String(64), nullable=False),  # of method, path, query and body
    Column(
        "token", BigInteger, nullable=False, server_default=text("1")
    ),  # rises when the claim is taken over
    Column("claimed_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("took_effect", Boolean, nullable=False, server_default=text("false")),
    Column("status", Integer),  # of the answer; null = there is none yet
    Column("headers", JSONB, nullable=False, server_default=text("'{}'")),
    Column("sealed_body", LargeBinary),  # answers may hold a key that is shown once
    Column("created_at", Time, nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint("owner", "key"),
    CheckConstraint("(status IS NULL) = (sealed_body IS NULL)", name="answer"),
)
Index("ix_idempotency_keys_created", idempotency_keys.c.created_at)
