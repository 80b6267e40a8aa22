"""The fleet as a whole: an operator's word on it, what passes saw last, and the hosts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "fleet_control",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("decided_by", sa.Text, nullable=False),
        sa.Column("since", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fleet_control"),
        sa.CheckConstraint("id = 1", name=op.f("ck_fleet_control_one_row")),
    )
    owner = sa.ForeignKey("containers.user_id", name=op.f("fk_looks_user_id"), ondelete="CASCADE")
    op.create_table(
        "looks",
        sa.Column("user_id", sa.UUID(as_uuid=False), owner, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("observed_at", time, nullable=False),
        sa.Column("body", postgresql.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_looks"),
    )
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("node_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("containers", sa.Integer, nullable=False),
        sa.Column("ports_used", sa.Integer, nullable=False),
        sa.Column("memory_mb", sa.BigInteger),
        sa.Column("observed_at", time, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_hosts"),
    )


def downgrade() -> None:
    for name in ("hosts", "looks", "fleet_control"):
        op.drop_table(name)
