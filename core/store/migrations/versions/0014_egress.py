"""Providers, sub-users, labels, exits and what chips use of their proxies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ID = sa.UUID(as_uuid=False)
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    _providers()
    _labels()
    _usage()


def downgrade() -> None:
    for name in (
        "quota_notices",
        "usage_batches",
        "proxy_usage",
        "exits",
        "labels",
        "sub_users",
        "providers",
    ):
        op.drop_table(name)


def _providers() -> None:
    op.create_table(
        "providers",
        sa.Column("slug", sa.String(40), nullable=False),
        sa.Column("title", sa.String(80), nullable=False),
        sa.Column("template", sa.String(40), nullable=False),
        sa.Column("scheme", sa.String(10), nullable=False),
        sa.Column("host", sa.Text),
        sa.Column("port", sa.Integer),
        sa.Column("country", sa.String(2), nullable=False, server_default=sa.text("'br'")),
        sa.Column("minutes", sa.Integer, nullable=False, server_default=sa.text("60")),
        sa.Column("cost_per_gb", sa.Numeric(10, 4), nullable=False, server_default=sa.text("0")),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("is_default", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("trouble", sa.String(40)),
        sa.Column("trouble_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("slug", name="pk_providers"),
        sa.CheckConstraint("scheme IN ('socks5', 'http')", name=op.f("ck_providers_scheme")),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("ck_providers_port")),
        sa.CheckConstraint("cost_per_gb >= 0", name=op.f("ck_providers_cost")),
    )
    op.create_index(
        "uq_providers_default",
        "providers",
        ["is_default"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "sub_users",
        sa.Column("id", _ID, nullable=False),
        sa.Column(
            "provider_slug",
            sa.String(40),
            sa.ForeignKey("providers.slug", name=op.f("fk_sub_users_provider_slug")),
            nullable=False,
        ),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("sealed_password", sa.LargeBinary, nullable=False),
        sa.Column("max_labels", sa.Integer, nullable=False, server_default=sa.text("1000")),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("trouble", sa.String(40)),
        sa.Column("trouble_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("id", name="pk_sub_users"),
        sa.UniqueConstraint("provider_slug", "login", name="uq_sub_users_provider_slug_login"),
        sa.CheckConstraint("max_labels >= 1", name=op.f("ck_sub_users_max_labels")),
    )


def _labels() -> None:
    chip = sa.ForeignKey("chips.id", name=op.f("fk_labels_chip_id"), ondelete="CASCADE")
    op.create_table(
        "labels",
        sa.Column("chip_id", _ID, chip, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("provider_slug", sa.String(40), nullable=False),
        sa.Column("sub_user_id", _ID, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("why", sa.String(20), nullable=False),
        sa.Column("assigned_at", _TIME, nullable=False),
        sa.Column("released_at", _TIME),
        sa.Column("requested_generation", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("exit_ip", sa.Text),
        sa.Column("exit_since", _TIME),
        sa.Column("exit_at", _TIME),
        sa.Column("checked_at", _TIME),
        sa.Column("failure", sa.String(40)),
        sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failing_since", _TIME),
        sa.PrimaryKeyConstraint("chip_id", name="pk_labels"),
    )
    live = sa.text("released_at IS NULL")
    op.create_index(
        "uq_labels_live", "labels", ["provider_slug", "label"], unique=True, postgresql_where=live
    )
    op.create_index("ix_labels_sub_user", "labels", ["sub_user_id"], postgresql_where=live)
    op.create_index("ix_labels_exit_at", "labels", ["provider_slug", "exit_at"], postgresql_where=live)
    op.create_index("ix_labels_exit_ip", "labels", ["exit_ip"], postgresql_where=live)
    op.create_table(
        "exits",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("chip_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("provider_slug", sa.String(40), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("label_generation", sa.BigInteger, nullable=False),
        sa.Column("exit_ip", sa.Text, nullable=False),
        sa.Column("seen_from", _TIME, nullable=False),
        sa.Column("seen_until", _TIME, nullable=False),
        sa.Column("why", sa.String(20), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exits"),
    )
    op.create_index("ix_exits_chip", "exits", ["chip_id", "id"])
    op.create_index("ix_exits_seen_until", "exits", ["seen_until"])


def _usage() -> None:
    op.create_table(
        "proxy_usage",
        sa.Column("month", sa.Date, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("chip_id", _ID, nullable=False),
        sa.Column("provider_slug", sa.String(40), nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("tunnels", sa.BigInteger, nullable=False),
        sa.Column("errors", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("month", "chip_id", "provider_slug", name="pk_proxy_usage"),
    )
    op.create_index("ix_proxy_usage_user", "proxy_usage", ["user_id", "month"])
    op.create_table(
        "usage_batches",
        sa.Column("batch_id", _ID, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("received_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("batch_id", name="pk_usage_batches"),
    )
    op.create_index("ix_usage_batches_received_at", "usage_batches", ["received_at"])
    op.create_table(
        "quota_notices",
        sa.Column("month", sa.Date, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("month", "user_id", "percent", name="pk_quota_notices"),
    )
