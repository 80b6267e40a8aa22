"""Rollouts: one row a release, a seat for each user who has to move, and what each job was made from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.UUID(as_uuid=False)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("containers", sa.Column("spec_release", sa.String(64)))
    op.create_table(
        "rollouts",
        sa.Column("release", sa.String(64), nullable=False),
        _now("announced_at"),
        sa.Column("state", sa.String(10), nullable=False, server_default=sa.text("'running'")),
        sa.Column("why", sa.String(20)),
        sa.Column("decided_by", sa.Text),
        _now("state_since"),
        _now("counted_from"),
        sa.PrimaryKeyConstraint("release", name="pk_rollouts"),
        sa.CheckConstraint("state IN ('running', 'paused', 'done')", name=op.f("ck_rollouts_state")),
    )
    op.create_table(
        "rollout_seats",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("restart_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(10), nullable=False, server_default=sa.text("'waiting'")),
        sa.Column("broken", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("connected", JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("moved_from", _ID),
        _now("asked_at"),
        sa.Column("admitted_at", _TIME),
        sa.Column("settled_at", _TIME),
        sa.Column("why", sa.String(20)),
        sa.PrimaryKeyConstraint("user_id", name="pk_rollout_seats"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_rollout_seats_user_id"),
        sa.CheckConstraint(
            "state IN ('waiting', 'moving', 'ok', 'failed')", name=op.f("ck_rollout_seats_state")
        ),
    )
    op.create_index("ix_rollout_seats_release", "rollout_seats", ["release", "state", "settled_at"])


def downgrade() -> None:
    op.drop_table("rollout_seats")
    op.drop_table("rollouts")
    op.drop_column("containers", "spec_release")


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, _TIME, nullable=False, server_default=sa.text("clock_timestamp()"))
