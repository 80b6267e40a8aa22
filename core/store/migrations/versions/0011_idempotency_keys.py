"""Answers kept for an Idempotency-Key; the audit log names who sat at the terminal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("took_effect", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("status", sa.Integer),
        sa.Column("headers", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("sealed_body", sa.LargeBinary),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
        sa.UniqueConstraint("owner", "key", name="uq_idempotency_keys_owner_key"),
        sa.CheckConstraint("(status IS NULL) = (sealed_body IS NULL)", name="answer"),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"])
    op.add_column("audit_log", sa.Column("actor_name", sa.Text, nullable=False, server_default=sa.text("''")))


def downgrade() -> None:
    op.drop_column("audit_log", "actor_name")
    op.drop_table("idempotency_keys")
