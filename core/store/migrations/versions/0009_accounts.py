"""Refresh token families, API keys, and accounts that an upstream tells of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    now = sa.text("clock_timestamp()")
    op.add_column("users", sa.Column("profile_at", time))
    op.create_table(
        "refresh_families",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        _user("refresh_families", nullable=False),
        sa.Column("newest_hash", sa.LargeBinary, nullable=False),
        sa.Column("before_hash", sa.LargeBinary),
        sa.Column("rotated_at", time),
        sa.Column("expires_at", time, nullable=False),
        sa.Column("ended_at", time),
        sa.Column("created_at", time, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("id", name="pk_refresh_families"),
    )
    op.create_index("ix_refresh_families_user_id", "refresh_families", ["user_id"])
    op.create_index("ix_refresh_families_expires_at", "refresh_families", ["expires_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        _user("api_keys", nullable=True),
        sa.Column("role", sa.String(20), nullable=False, server_default=sa.text("'user'")),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(14), nullable=False),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_at", time, nullable=False, server_default=now),
        sa.Column("last_used_at", time),
        sa.Column("revoked_at", time),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
        sa.CheckConstraint("role IN ('user', 'service', 'operator')", name=op.f("ck_api_keys_role")),
        sa.CheckConstraint("(role = 'user') = (user_id IS NOT NULL)", name=op.f("ck_api_keys_owner")),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id", "created_at"])


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("refresh_families")
    op.drop_column("users", "profile_at")


def _user(table: str, *, nullable: bool) -> sa.Column[str]:
    key = sa.ForeignKey("users.id", name=op.f(f"fk_{table}_user_id"))
    return sa.Column("user_id", sa.UUID(as_uuid=False), key, nullable=nullable)
