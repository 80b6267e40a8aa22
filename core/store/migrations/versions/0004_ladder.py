"""What the reconnect ladder goes by: consent, bans, releases from quarantine, and what passes remember of a chip."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    none = sa.Column("consent", sa.String(10), nullable=False, server_default=sa.text("'none'"))
    op.add_column("chips", none)
    op.add_column("chips", sa.Column("banned_at", sa.DateTime(timezone=True)))
    never = sa.Column("released_generation", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    op.add_column("chips", never)
    empty = sa.Column("memory", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'"))
    op.add_column("chips", empty)
    op.create_check_constraint("consent", "chips", "consent IN ('none', 'press', 'fresh')")


def downgrade() -> None:
    op.drop_constraint("consent", "chips", type_="check")
    for name in ("consent", "banned_at", "released_generation", "memory"):
        op.drop_column("chips", name)
