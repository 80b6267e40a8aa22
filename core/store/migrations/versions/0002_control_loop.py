"""What the control loop remembers: rest and looks, isolation, orphans, guards' leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _control_loop()
    _looks()
    _rules()
    _orphans()
    _guard_leases()


def downgrade() -> None:
    """Each part takes back what its function added."""
    op.drop_table("guard_grants")
    op.drop_column("placements", "grant_number")
    op.drop_index("ix_chip_events_created", "chip_events")
    op.drop_index("ix_port_ledger_closed", "port_ledger")
    op.drop_index("ix_port_ledger_user", "port_ledger")
    op.create_index(
        "ix_port_ledger_user_open", "port_ledger", ["user_id"], postgresql_where=sa.text("closed_at IS NULL")
    )
    for name in ("at_rest", "looked_at"):
        op.drop_column("containers", name)
    for name in ("paused", "isolated_at", "key_renewed_for"):
        op.drop_column("containers", name)
    op.drop_table("orphans")
    for name in ("claimed_at", "looked_at", "looked_by"):
        op.drop_column("leases", name)


def _control_loop() -> None:
    """Whether a user is at rest, and when a pass last looked; indexes for what is closed and forgotten."""
    at_rest = sa.Column("at_rest", sa.Boolean, nullable=False, server_default=sa.text("false"))
    op.add_column("containers", at_rest)
    op.add_column("containers", sa.Column("looked_at", sa.DateTime(timezone=True)))
    op.drop_index("ix_port_ledger_user_open", "port_ledger")
    op.create_index("ix_port_ledger_user", "port_ledger", ["user_id"])
    op.create_index(
        "ix_port_ledger_closed",
        "port_ledger",
        ["closed_at"],
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_index("ix_chip_events_created", "chip_events", ["created_at"])


def _looks() -> None:
    """Whose look was the last that saw everything, and since when it holds."""
    for name, type_ in (
        ("claimed_at", sa.DateTime(timezone=True)),
        ("looked_at", sa.DateTime(timezone=True)),
        ("looked_by", sa.String(80)),
    ):
        op.add_column("leases", sa.Column(name, type_))


def _rules() -> None:
    """What the rules remember of a container."""
    paused = sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.text("false"))
    op.add_column("containers", paused)
    op.add_column("containers", sa.Column("isolated_at", sa.DateTime(timezone=True)))
    op.add_column("containers", sa.Column("key_renewed_for", sa.UUID(as_uuid=False)))


def _orphans() -> None:
    """What nobody explains."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "orphans",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("user_id", postgresql.UUID(as_uuid=False)),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("costs", postgresql.JSONB, nullable=False),
        sa.Column("first_seen", time, nullable=False),
        sa.Column("last_seen", time, nullable=False),
        sa.Column("state", sa.String(20), nullable=False, server_default=sa.text("'seen'")),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_at", time),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("next_try_at", time),
        sa.Column("note", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_orphans"),
        sa.UniqueConstraint("kind", "name", "place", name="uq_orphans_kind_name_place"),
        sa.CheckConstraint(
            "state IN ('seen', 'waiting', 'approved', 'kept', 'removing', 'failed', 'removed')",
            name=op.f("ck_orphans_state"),
        ),
    )


def _guard_leases() -> None:
    """What grants to guards rest on."""
    time = sa.DateTime(timezone=True)
    number = sa.Column("grant_number", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    op.add_column("placements", number)
    op.create_table(
        "guard_grants",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("granted_after", time, nullable=False),
        sa.Column("server_started_at", time, nullable=False),
        sa.Column("clock", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guard_grants"),
        sa.CheckConstraint("id = 1", name=op.f("ck_guard_grants_one_row")),
    )
