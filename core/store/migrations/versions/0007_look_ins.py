"""Look-ins: who looks, what they see; restart of a container by request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_RESTART_COLUMNS = ("restart_generation", "restart_allocation_id", "restarted_generation", "restart_mark")


def upgrade() -> None:
    zero = sa.text("0")
    for name in ("restart_generation", "restarted_generation"):
        op.add_column("containers", sa.Column(name, sa.BigInteger, nullable=False, server_default=zero))
    op.add_column("containers", sa.Column("restart_allocation_id", sa.UUID(as_uuid=False)))
    op.add_column("containers", sa.Column("restart_mark", sa.Integer))
    time = sa.DateTime(timezone=True)
    op.create_table(
        "viewers",
        _owner("viewers"),
        sa.Column("what", sa.String(10), nullable=False),
        sa.Column("until", time, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "what", name="pk_viewers"),
        sa.CheckConstraint("what IN ('stats', 'logs')", name=op.f("ck_viewers_what")),
    )
    op.create_table(
        "container_stats",
        _owner("container_stats"),
        sa.Column("allocation_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("cpu_percent", sa.Float, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("sampled_at", time, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_container_stats"),
    )
    op.create_table(
        "container_logs",
        _owner("container_logs"),
        sa.Column("allocation_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
        sa.Column("last_line", sa.BigInteger, nullable=False),
        sa.Column("positions", postgresql.JSONB, nullable=False),
        sa.Column("read_at", time, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_container_logs"),
    )


def downgrade() -> None:
    for name in ("container_logs", "container_stats", "viewers"):
        op.drop_table(name)
    for name in _RESTART_COLUMNS:
        op.drop_column("containers", name)


def _owner(table: str) -> sa.Column[str]:
    key = sa.ForeignKey("containers.user_id", name=op.f(f"fk_{table}_user_id"), ondelete="CASCADE")
    return sa.Column("user_id", sa.UUID(as_uuid=False), key, nullable=False)
