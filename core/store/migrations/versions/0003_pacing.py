"""Start tokens: buckets, the line of those who wait, and what people see of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ORDER_OF_PLANS = {"enterprise": 0, "business": 10}


def upgrade() -> None:
    order = sa.Column("start_order", sa.Integer, nullable=False, server_default=sa.text("20"))
    op.add_column("plans", order)
    plans = sa.table("plans", sa.column("slug"), sa.column("start_order"))
    for slug, place in _ORDER_OF_PLANS.items():
        op.execute(sa.update(plans).where(plans.c.slug == slug).values(start_order=place))
    op.add_column("chips", sa.Column("waiting_since", _TIME))
    op.add_column("chips", sa.Column("starts_at", _TIME))
    op.create_index(
        "ix_chips_waiting",
        "chips",
        ["waiting_since"],
        postgresql_where=sa.text("waiting_since IS NOT NULL"),
    )
    op.create_table(
        "start_buckets",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("tokens", sa.Double, nullable=False),
        sa.Column("refilled_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_start_buckets"),
    )
    op.create_table(
        "start_queue",
        sa.Column("chip_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("provider", sa.Text),
        sa.Column("start_order", sa.Integer, nullable=False),
        sa.Column("waiting_since", _TIME, nullable=False),
        sa.Column("asked_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("chip_id", name="pk_start_queue"),
    )


def downgrade() -> None:
    op.drop_table("start_queue")
    op.drop_table("start_buckets")
    op.drop_index("ix_chips_waiting", "chips")
    op.drop_column("chips", "starts_at")
    op.drop_column("chips", "waiting_since")
    op.drop_column("plans", "start_order")
