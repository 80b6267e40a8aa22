"""What passes saw of a user, for explanations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("user_id", postgresql.UUID(as_uuid=False), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("body", postgresql.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_evidence"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_evidence_user_id"),
    )


def downgrade() -> None:
    op.drop_table("evidence")
